"""The family of a model is found by what its template writes."""

from __future__ import annotations

from typing import Any

import pytest

from offgrid.chat.answer_parser import CallArguments, CallStart, Content, Reasoning
from offgrid.chat.dialect import Dialect

from .templates import EXAMPLES, Example

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL = {
    "type": "function",
    "function": {"name": "get", "description": "Weather", "parameters": SCHEMA},
}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get", "arguments": {"city": "Oslo", "days": 13}},
}
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.family)


def dialect(example: Example) -> Dialect:
    control = {text: 1000 + n for n, text in enumerate(example.control)}
    return Dialect(example.template, "", "", control)


@examples
def test_the_family_is_that_of_the_form(example: Example) -> None:
    known = dialect(example)
    assert known.family == example.family
    assert (known.form.reasoning is None) == (
        "{thought}" not in example.answer or known.form.channels is not None
    )


@examples
def test_the_answer_of_a_model_is_read(example: Example) -> None:
    known = dialect(example)
    prompt = known.prompt([{"role": "user", "content": "Hi"}], [TOOL])
    assert prompt.thinking == example.opens
    parser = known.parser({"get": SCHEMA}, thinking=prompt.thinking)
    text = example.answer.replace("{thought}", "I look.").replace("{content}", "Now.")
    events: list[Any] = []
    for start in range(0, len(text), 5):
        events += parser.feed(text[start : start + 5])
    events += parser.finish()
    thought = "".join(event.text for event in events if isinstance(event, Reasoning))
    content = "".join(event.text for event in events if isinstance(event, Content))
    assert thought == ("I look." if "{thought}" in example.answer else "")
    assert content == ("Now." if "{content}" in example.answer else "")
    assert [event for event in events if isinstance(event, CallStart)] == [CallStart(0, "get")]
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    assert arguments == '{"city": "Oslo", "days": 13}'


@examples
def test_the_history_has_the_form_of_the_answer(example: Example) -> None:
    known = dialect(example)
    call = example.answer.rpartition("{content}")[2]
    for end_of_content in ("<|END_RESPONSE|>", "<|end|>"):
        call = call.removeprefix(end_of_content)
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "Rain", "tool_call_id": "call12345"},
    ]
    text = "".join(part.text for part in known.prompt(history, [TOOL]).parts)
    assert "get" in call
    assert "".join(call.split()) in "".join(text.split())
    assert "Rain" in text
    special = {part.text for part in known.prompt(history, [TOOL]).parts if part.special}
    assert special <= set(example.control)
