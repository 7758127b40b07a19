"""What a model says, by its own template: the text that the template writes for an answer."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from answer_events import combined

from offgrid.chat.answer_parser import AnswerEvent
from offgrid.chat.dialect import Dialect
from offgrid.chat.probe import as_variables

Json = dict[str, Any]

QUESTION, THOUGHT, CONTENT = "Is it raining in Oslo?", "The user wants rain.", "Let me look."
RESULTS = ("It is raining.", "It is snowing.")
_PROPERTIES = {
    "city": {"type": "string", "description": "A city."},
    "day": {"type": "string", "description": "A day."},
}
SCHEMA: Json = {
    "type": "object", "properties": _PROPERTIES, "required": ["city", "day"],
    "additionalProperties": False,
}  # fmt: skip
NAMES = ("get_rain", "get_snow")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Tells.", "parameters": SCHEMA}}
    for name in NAMES
]
ARGUMENTS = ({"city": "Oslo", "day": "next Monday"}, {"city": "Bergen", "day": "Friday, noon"})
USER = {"role": "user", "content": QUESTION}
_IDS = ("abcdefgh1", "abcdefgh2")
MARKERS = re.compile(
    r"<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|\[/?[A-Z_]+\]|</?(?:tool_call|think|TOOLCALL)>"
    r"|<\|?(?:tool_call|channel)\|?>"
)
"""What is a control token in most vocabularies."""


_ENDS = re.compile(
    r"<\|END_OF_TURN_TOKEN\|>|<\|eom_id\|>|<｜hy_eos:opensource｜>|<｜end▁of▁sentence｜>"
    r"|<\|tool_response>|<\|START_OF_TURN_TOKEN\|>|<\|close\|>message"
)
"""What follows an answer with calls, where the template ends other answers differently."""
_HEADER = "<|CHATBOT_TOKEN|>"
"""Ends the header of an answer; in the prompt of Command R+, a system message comes before it."""


@dataclass(frozen=True)
class Said:
    """What a model says.

    Attributes:
        text: the whole answer.
        thought: reasoning in it, or nothing.
        content: content in it, or nothing.
        calls: names and arguments.
        opened: whether the prompt has opened the reasoning.
    """

    text: str
    thought: str
    content: str
    calls: Sequence[tuple[str, Json]]
    opened: bool = False


def said(
    dialect: Dialect, calls: int, *, thought: bool = False, content: bool = False
) -> Said | None:
    """Return what the model says, without what surrounds any answer.

    None if the template does not write all of it, or this model never says it.
    """
    header = _written(dialect, [USER], ask=True).rpartition(QUESTION)[2]
    reasoning = dialect.form.reasoning
    begin, end = ("", "") if reasoning is None else (reasoning.begin.strip(), reasoning.end.strip())
    opened = bool(begin) and header.rstrip().endswith(begin)
    closed = bool(end) and header.rstrip().endswith(end)
    if thought and (not dialect.reasons or closed):
        return None
    text = _region(dialect, header, _answer(calls, thought, content), calls)
    if text is None:
        return None
    if closed:
        text = text.lstrip().removeprefix(end)
    if opened and end not in text:
        # The template leaves earlier reasoning out.
        text = f"{THOUGHT}\n{end}\n{text}"
        thought = True
    if (thought and THOUGHT not in text) or (content and CONTENT not in text):
        return None
    made = list(zip(NAMES, ARGUMENTS, strict=True))[:calls]
    return Said(text, THOUGHT if thought else "", CONTENT if content else "", made, opened)


def _region(dialect: Dialect, header: str, answer: Json, calls: int) -> str | None:
    """Return what the template writes for an answer between header and end of a turn."""
    plain = _written(dialect, [USER, {"role": "assistant", "content": "plain answer"}])
    trailer = plain.rpartition("plain answer")[2].strip()
    last = ARGUMENTS[calls - 1]["day"]
    for results in ([], _results(calls)):
        written = _written(dialect, [USER, answer, *results])
        region = written.rpartition(QUESTION)[2].partition(RESULTS[0])[0]
        if all(name in region for name in NAMES[:calls]) and last in region:
            region = region[_header_end(header, region) :]
            at = region.rfind(last)
            tail = region[at:]
            if not results:
                tail = _ENDS.split(tail.rstrip().removesuffix(trailer))[0]
                return (region[:at] + tail).removeprefix(_HEADER)
            return region[:at] + (tail.partition(trailer)[0] if trailer else tail)
    return None


def _written(dialect: Dialect, messages: list[Json], ask: bool = False) -> str:
    """Return what the template writes, without any change of the messages."""
    write = dialect.template.probe
    if dialect.family == "firefunction":
        return write(messages, ask=ask, variables=as_variables("functions", TOOLS)) or ""
    return write(messages, TOOLS, ask=ask) or ""


def _answer(calls: int, thought: bool, content: bool) -> Json:
    made = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in zip(_IDS, NAMES, ARGUMENTS, strict=True)
    ]
    answer = {"role": "assistant", "content": CONTENT * content, "tool_calls": made[:calls]}
    return {**answer, "reasoning_content": THOUGHT} if thought else answer


def _results(calls: int) -> list[Json]:
    results = zip(RESULTS, _IDS, NAMES, strict=True)
    return [
        {"role": "tool", "content": content, "tool_call_id": id, "name": name}
        for content, id, name in list(results)[:calls]
    ]


def _header_end(header: str, region: str) -> int:
    """Where the answer begins, after the header that the prompt ends with."""
    same = len(os.path.commonprefix([header, region]))  # noqa: RUF071
    opened = max(region.rfind("<", 0, same), region.rfind("[", 0, same))
    if opened > max(region.rfind(">", 0, same), region.rfind("]", 0, same)):
        return opened  # not within a marker
    return same


Message = tuple[str, str, list[tuple[str, Any]]]
"""Content, reasoning, and name and arguments of each call."""


def message_of(events: Iterable[AnswerEvent]) -> Message:
    """Combine the events of an answer; arguments that are cut short stay text."""
    content, reasoning, calls = combined(events)
    return content, reasoning, [(name, _parsed(text)) for name, text in calls]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def markers_of(text: str) -> list[str]:
    """Return the control tokens of a model that says a text."""
    control = {*MARKERS.findall(text)}
    if "<|end|>" in control:  # llama.cpp tells by these that it does not end an answer.
        control |= {"<|return|>", "<|call|>", "<|calls|>", "<|flush|>"}
    return sorted(control)
