"""docs/LIBRARY.md: its examples run, and the types of options are the API's fields."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from support import STARTER, TIMEOUT

from offgrid.api.chat.request import ChatRequest
from offgrid.api.completions.request import CompletionRequest
from offgrid.api.fields import sampling
from offgrid.api.fields.inert import IGNORED
from offgrid.inprocess import options

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "LIBRARY.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"(<!-- not run -->\n)?```python\n(.*?)```", PAGE, re.DOTALL)
OF_HTTP = {
    "model", "service_tier", "stream", "stream_options", "keep_alive", "messages", "prompt",
}  # fmt: skip
"""Fields that are no options: what they say is said otherwise, or has no effect."""


def program(model: str) -> str:
    """All examples as one program, which shares one model between them."""
    examples = [text for skipped, text in EXAMPLES if not skipped]
    assert len(examples) >= 9
    return "".join(examples).replace('"smollm2-135m"', repr(model))


def run(model: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program(model)], capture_output=True, text=True, cwd=cwd,
        timeout=TIMEOUT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFGRID_NUM_THREADS", "1")
    output = run(STARTER, tmp_path)
    assert "Once upon a time" in output
    assert "temperature temperature must be between 0 and 2, not 9." in output


def test_options_are_fields_of_the_api() -> None:
    of_generation = set(get_type_hints(options.GenerationOptions))
    for typed, request in (
        (options.ChatOptions, ChatRequest),
        (options.CompletionOptions, CompletionRequest),
    ):
        fields = {*request.__struct_fields__} - request.PARSED - IGNORED - OF_HTTP
        own = set(get_type_hints(typed)) - of_generation
        common = fields & of_generation
        assert own == fields - common, request
    # Fields from which attributes of the requests are made.
    made = of_generation - set(ChatRequest.__struct_fields__)
    assert made == sampling.NAMES | {"regex", "choice", "grammar_type", "response_format"}


def test_the_page_names_all_settings() -> None:
    for name in get_type_hints(options.Settings):
        assert f"`{name}`" in PAGE


@pytest.mark.slow
def test_types(tmp_path: Path) -> None:
    """As a program sees them; mypy needs many seconds."""
    (tmp_path / "program.py").write_text(
        "from typing import Any\n"
        "from typing_extensions import assert_type\n"
        "from offgrid import LLM\n"
        "from offgrid.inprocess.answers import ChatAnswer, CompletionAnswer\n"
        "from offgrid.inprocess.scores import Score\n"
        "class City: ...\n"
        "def use(llm: LLM) -> None:\n"
        "    assert_type(llm.chat('a', schema=City).parsed, City)\n"
        "    assert_type(llm.chat('a', temperature=0), ChatAnswer[Any])\n"
        "    assert_type(llm.chat([{'role': 'user', 'content': 'a'}]), ChatAnswer[Any])\n"
        "    assert_type(llm.chat(['a', 'b']), list[ChatAnswer[Any]])\n"
        "    assert_type(llm.chat([[{'role': 'user', 'content': 'a'}]], schema=City),\n"
        "                list[ChatAnswer[City]])\n"
        "    assert_type(llm.stream('a', schema=City).answer.parsed, City)\n"
        "    assert_type(llm.complete(['a']), list[CompletionAnswer[Any]])\n"
        "    assert_type(llm.complete([1, 2]), CompletionAnswer[Any])\n"
        "    assert_type(llm.embed('a'), list[float])\n"
        "    assert_type(llm.score('a', ['b']), list[Score])\n"
        "    llm.chat('a', temprature=0)  # type: ignore[call-overload]\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "program.py"],
        capture_output=True, text=True, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0)
