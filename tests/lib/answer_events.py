"""The events of an answer, combined, and the form in which a family of models answers."""

from __future__ import annotations

from collections.abc import Iterable

from offgrid.chat.answer_parser import AnswerEvent, AnswerForm, CallStart, Content, Reasoning
from offgrid.chat.formats import THINK, Family

Message = tuple[str, str, list[list[str]]]
"""Content, reasoning, and name and arguments of each call."""


def combined(events: Iterable[AnswerEvent]) -> Message:
    """Combine events into a message; their order must be valid in a stream."""
    content = reasoning = ""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, Reasoning):
            reasoning += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        else:
            assert event.index == len(calls) - 1
            calls[-1][1] += event.text
        assert isinstance(event, CallStart) or event.text
    return content, reasoning, calls


def form_of(family: Family) -> AnswerForm:
    """The form of a family's answers."""
    calls = () if family.calls is None else (family.calls,)
    return AnswerForm(
        calls + family.also, (*family.reasoning, THINK)[0], family.wrappers,
        frozenset(family.wrappers), family.channels,
    )  # fmt: skip
