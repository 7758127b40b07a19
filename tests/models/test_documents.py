"""The examples of the README and of the first hour, run on the model that they name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import TIMEOUT

pytestmark = pytest.mark.models

ROOT = Path(__file__).parent.parent.parent
URL = "http://localhost:11611"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def comments(code: str) -> list[str]:
    """What the comments say that each ``print`` prints, in order; "" if nothing is said."""
    lines = [line for line in code.splitlines() if re.match(" *print\\((?!.*end=)", line)]
    return [line.partition("  # ")[2] for line in lines]


def agrees(printed: str, comment: str) -> bool:
    """Whether a line is the one of a comment, in which ``...`` stands for any beginning."""
    if comment.startswith("... "):
        return printed.endswith(comment[4:])
    return not comment or printed == comment


@pytest.mark.parametrize("page", ["README.md", "docs/FIRST_HOUR.md"])
def test_python_examples_print_what_their_comments_say(
    real_url: str, smollm2: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFGRID_MODELS_DIR", str(smollm2.parent))
    monkeypatch.setenv("OFFGRID_THREADS", "1")
    code = "\n".join(blocks(page, "python")).replace(URL, real_url)
    assert real_url in code
    printed: list[str] = []

    def note(*words: Any, end: str = "\n", flush: bool = False) -> None:
        if end:  # an example of a stream prints pieces
            printed.append(" ".join(map(str, words)))

    exec(compile(code, page, "exec"), {"print": note})
    expected = comments(code)
    assert len(printed) == len(expected)
    assert sum(map(bool, expected)) >= 3
    for line, comment in zip(printed, expected, strict=True):
        assert agrees(line, comment), f"{line!r} is not {comment!r}"


@pytest.mark.parametrize("page", ["README.md", "docs/FIRST_HOUR.md"])
def test_requests_of_curl_are_answered(real_url: str, smollm2: Path, page: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    found = 0
    for block in blocks(page, "sh"):
        for command in re.split(r"\n\n|^#.*\n", block, flags=re.MULTILINE):
            if not command.startswith("curl "):
                continue
            done = subprocess.run(
                ["bash", "-c", command.replace(URL, real_url)],
                capture_output=True, text=True, timeout=TIMEOUT, check=True,
            )  # fmt: skip
            if "curl -N" in command:
                assert done.stdout.endswith("data: [DONE]\n\n")
            else:
                assert "error" not in json.loads(done.stdout), command
            if "What is the capital of France?" in command:
                content = json.loads(done.stdout)["choices"][0]["message"]["content"]
                assert content == "The capital of France is Paris."
            found += 1
    assert found >= 2
