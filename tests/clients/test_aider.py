"""aider, which pins every library and so lives in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import scripted_model
from support import TIMEOUT

from offgrid.server import Server

AIDER = shutil.which("aider")
pytestmark = pytest.mark.skipif(AIDER is None, reason="aider is not on the PATH")

TEMPLATE = """\
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
EDIT = """\
I fix the word.

weather.txt
```
<<<<<<< SEARCH
suny
=======
sunny
>>>>>>> REPLACE
```
"""


def aider(folder: Path, server: Server, *arguments: str, model: str = "scripted") -> str:
    """Ask for a change of ``weather.txt``; return what aider prints."""
    assert AIDER is not None
    done = subprocess.run(
        [
            AIDER, "--model", f"openai/{model}", "--edit-format", "diff", "--no-git",
            "--yes-always", "--no-check-update", "--analytics-disable", "--no-pretty",
            "--no-show-model-warnings", "--no-show-release-notes", "--no-detect-urls",
            "--map-tokens", "0", *arguments, "--message", "Correct it.", "weather.txt",
        ],
        cwd=folder,
        env={
            **os.environ, "HOME": str(folder), "OPENAI_API_BASE": f"{server.url}/v1",
            "OPENAI_API_KEY": "any",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture
def server(tmp_path: Path, make_server: Callable[..., Server]) -> Server:
    scripted_model.write(tmp_path / "scripted.gguf", TEMPLATE, [], EDIT, context=32768)
    return make_server(models_dir=tmp_path, ctx_size=32768, parallel=1)


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_a_file_is_edited(server: Server, tmp_path: Path, how: str) -> None:
    file = tmp_path / "weather.txt"
    file.write_text("suny\n", encoding="utf-8")
    printed = aider(tmp_path, server, how)
    assert file.read_text(encoding="utf-8") == "sunny\n", printed


def test_errors(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weather.txt").write_text("suny\n", encoding="utf-8")
    printed = aider(tmp_path, server, model="nothing").split()  # aider breaks long lines
    assert "Model not found: nothing." in " ".join(printed)
