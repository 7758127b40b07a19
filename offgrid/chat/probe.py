"""Recognises how a model writes calls and reasoning, by what its template does with known messages.

What a template writes for a call or for reasoning in the history is what its model was trained to
write. The probes render short conversations with unmistakable words, and look at the result; the
template's source is never searched.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from offgrid.chat.answer_parser import AnswerForm, AnswerParser, CallArguments, CallStart, Content
from offgrid.chat.derive import derive
from offgrid.chat.formats import (
    FAMILIES,
    HERMES,
    REASONING,
    WRAPPERS,
    CallFormat,
    Channels,
    Family,
    ReasoningFormat,
)
from offgrid.chat.grammars import SPACE_AFTER
from offgrid.chat.literals import first_atoms
from offgrid.chat.writing import Call, write_calls

Render = Callable[..., str | None]
"""Renders messages with tools and variables; None if the template refuses them."""

TOOL_VARIABLES = ("tools", "xml_tools", "functions")
"""Names under which templates read the tools; ``tools`` is the usual one."""

_QUESTION, _RESULT, _THOUGHT, _CONTENT = "qzuestionx", "rzesultx", "tzhoughtx", "czontentx"
_NAMES = ("get_wzeather", "get_tzime")
_ARGUMENTS: tuple[dict[str, Any], ...] = ({"alzpha": "Ozslo", "bezta": "7z"}, {"gazmma": "CzET"})
_CALLS: tuple[Call, ...] = tuple(zip(_NAMES, _ARGUMENTS, strict=True))
_IDS = ("call00001", "call00002")
_LONG_ID = "call_0123456789abcdef"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "dzescription",
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": "string", "description": "dzescription"} for key in arguments
                },
                "required": list(arguments),
            },
        },
    }
    for name, arguments in _CALLS
]
_SCHEMAS: dict[str, Any] = {
    name: {"properties": {key: {"type": "string"} for key in arguments}}
    for name, arguments in _CALLS
}
_TAGS = re.compile(r"(<[^<>\s][^<>\n]{0,62}>|\[[A-Z_/]{3,32}\])\s*$")
_TAG = re.compile(r"\s*(<[^<>\s][^<>\n]{0,62}>|\[[A-Z_/]{3,32}\])")


@dataclass(frozen=True)
class Recognised:
    """What the probes found out.

    Attributes:
        family: the name of the family, ``derived`` for a format that is in no entry, or
            ``generic`` if OffGrid's own description is used.
        calls: the formats of calls, the model's own first.
        described: whether the template describes the offered functions to the model.
        tool_variable: the name under which it reads them.
        writes_calls: whether it writes earlier calls.
        writes_results: whether it writes the results of calls.
        reasoning: the markers of reasoning, None for none.
        wrappers: markers around content.
        content_begin: what the model writes before content.
        no_content: what it may write in place of content, before calls.
        channels: for answers in channels.
        closing: what the template writes between reasoning and content; empty if it is not known.
    """

    family: str = "generic"
    calls: tuple[CallFormat, ...] = (HERMES,)
    described: bool = False
    tool_variable: str = "tools"
    writes_calls: bool = False
    writes_results: bool = False
    reasoning: ReasoningFormat | None = None
    wrappers: tuple[str, ...] = ()
    content_begin: str = ""
    no_content: str = ""
    channels: Channels | None = None
    closing: str = ""


def as_variables(name: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the variables in which a template reads the tools.

    Templates that read ``functions`` want JSON text, and the time as ``datetime`` (Firefunction).
    """
    if name != "functions":
        return {name: tools}
    now = time.strftime("%b %d %Y %H:%M:%S GMT", time.gmtime())
    return {name: json.dumps(tools, ensure_ascii=False, indent=4), "datetime": now}


def recognise(render: Render, control: Collection[str]) -> Recognised:
    """Return how a model writes calls and reasoning.

    Args:
        render: renders the model's template.
        control: texts of the model's control tokens.
    """
    return _Probe(render, control).result()


class _Probe:
    def __init__(self, render: Render, control: Collection[str]) -> None:
        self._render = render
        self._control = frozenset(control)
        self._closing = ""

    def result(self) -> Recognised:
        variable, described = self._described()
        found = self._by_history(variable)
        writes_calls = found is not None
        if found is None and described:
            found = self._by_description(variable)
        if found is None:
            found = self._by_vocabulary()
        reasoning, channel_family = self._reasoning()
        if found is None and channel_family is not None:
            found = channel_family.name, (channel_family.calls or HERMES,), channel_family
        family = found[2] if found is not None else None
        wrappers = family.wrappers if family is not None else ()
        if self._contains(WRAPPERS[0]):
            wrappers += WRAPPERS
        channels = family.channels if family is not None else None
        return Recognised(
            "generic" if found is None else found[0],
            (HERMES,) if found is None else found[1],
            described and found is not None,
            variable,
            writes_calls,
            (described or writes_calls) and self._writes_results(variable, writes_calls),
            reasoning if channels is None else None,
            wrappers,
            "" if family is None else family.content_begin,
            "" if family is None else family.no_content,
            channels,
            self._closing,
        )

    # --- calls --------------------------------------------------------------------------------

    def _described(self) -> tuple[str, bool]:
        """Return the variable under which the template reads tools, and whether it does."""
        for variable in TOOL_VARIABLES:
            text = self._with_tools([_user()], variable)
            if text is not None and all(name in text for name in _NAMES):
                return variable, True
        return TOOL_VARIABLES[0], False

    def _with_tools(self, messages: list[dict[str, Any]], variable: str) -> str | None:
        if variable == TOOL_VARIABLES[0]:
            return self._render(messages, _TOOLS)
        return self._render(messages, None, variables=as_variables(variable, _TOOLS))

    def _region(self, variable: str, count: int, ids: Sequence[str] = _IDS) -> str | None:
        """Return what the template writes for calls, from the question to the first result."""
        messages = [_user(), _calling(count, ids), *_results(count, ids)]
        text = self._with_tools(messages, variable)
        if text is None:
            return None
        region = text[text.rfind(_QUESTION) + len(_QUESTION) :]
        return region.partition(_RESULT)[0]

    def _by_history(self, variable: str) -> tuple[str, tuple[CallFormat, ...], Family] | None:
        one, two = self._region(variable, 1), self._region(variable, 2)
        several = two is not None and all(name in two for name in _NAMES)
        region, count = (two, 2) if several else (one, 1)
        if region is None or _NAMES[0] not in region:
            return None
        readers = [family for family in FAMILIES if _reads(family, region, count)]
        exact = [
            family
            for free in (False, True)
            for family in readers
            if family.calls and _wrote(family.calls, region, count, free)
        ]
        family = next(iter([*exact, *readers]), None)
        if family is None:
            plain = self._with_tools([_user(), _assistant(_CONTENT)], variable) or ""
            before, _, after = plain.rpartition(_QUESTION)[2].partition(_CONTENT)
            form = derive(one, two if several else None, (before, after), _CALLS)
            if form is None or not _reads(Family("derived", form), region, count):
                return None
            family = Family("derived", form)
        forms: tuple[CallFormat, ...] = ()
        if family.calls is not None:
            forms = (_with_head(family.calls, region, count),)
        long_ids = self._region(variable, 1, (_LONG_ID,))
        short = one is not None and (long_ids is None or _NAMES[0] not in long_ids)
        forms = tuple(replace(form, one_by_one=not several, short_ids=short) for form in forms)
        if family.channels is not None and not forms:
            forms = (CallFormat("json", one_by_one=not several, short_ids=short),)
        return family.name, forms + family.also, family

    def _by_description(self, variable: str) -> tuple[str, tuple[CallFormat, ...], Family] | None:
        """Find the marker that the template explains only together with tools."""
        plain = self._render([_user()], None) or ""
        text = self._with_tools([_user()], variable) or ""
        for family in FAMILIES:
            form = family.calls
            if form is None:
                continue
            (marker, *_) = (*sorted(first_atoms((form.begin or form.call_begin,))), "")
            if marker.isalpha():  # A word alone proves nothing.
                marker += "[" if form.array else "{"
            if marker and marker in text and marker not in plain:
                return family.name, (form, *family.also), family
        return None

    def _by_vocabulary(self) -> tuple[str, tuple[CallFormat, ...], Family] | None:
        """Find a marker of calls among the control tokens, for templates that say nothing."""
        for family in FAMILIES:
            form = family.calls
            markers = first_atoms(() if form is None else (form.begin or form.call_begin,))
            if form is not None and not form.bare and markers and markers <= self._control:
                return family.name, (form, *family.also), family
        return None

    def _writes_results(self, variable: str, calls: bool) -> bool:
        asked = _calling(1, _IDS) if calls else _assistant("call")
        text = self._with_tools([_user(), asked, *_results(1, _IDS)], variable)
        return text is not None and _RESULT in text

    # --- reasoning ----------------------------------------------------------------------------

    def _reasoning(self) -> tuple[ReasoningFormat | None, Family | None]:
        thought = {"reasoning_content": _THOUGHT}  # The template gets it under the name it reads.
        rendered = (
            self._render([_user(), {**_assistant(_CONTENT), **thought}], None, ask=False),
            self._with_tools([_user(), {**_calling(1, _IDS), **thought}], TOOL_VARIABLES[0]),
        )
        for text in rendered:
            before, found, after = (text or "").partition(_THOUGHT)
            if found:
                form = _around(before, after)
                channel = _channel(before)
                if form is not None:
                    self._closing = _closing(after, form)
                if form is not None or channel is not None:
                    return form, channel
        for form in REASONING:
            if self._strips(form) or self._asks_for(form):
                return form, None
        known = (form for form in REASONING if {form.begin.strip(), form.end} <= self._control)
        return next(known, None), None

    def _strips(self, form: ReasoningFormat) -> bool:
        """Whether the template takes reasoning out of an earlier answer."""
        written = f"{form.begin}{_THOUGHT}{form.end}{_CONTENT}"
        messages = [_user(), _assistant(written), _user(), _assistant("done"), _user()]
        text = self._render(messages, None)
        return text is not None and _CONTENT in text and _THOUGHT not in text

    @cached_property
    def _prompts(self) -> tuple[str, ...]:
        """Prompts without a wish, with the wish to reason, and with the wish not to."""
        wishes: tuple[dict[str, bool], ...] = (
            {}, {"enable_thinking": True, "thinking": True},
            {"enable_thinking": False, "thinking": False},
        )  # fmt: skip
        return tuple(
            (self._render([_user()], None, variables=wish) or "").rstrip() for wish in wishes
        )

    def _asks_for(self, form: ReasoningFormat) -> bool:
        """Whether a prompt begins or ends reasoning, or explains the markers on request."""
        begin, end = form.begin.strip(), form.end.strip()
        plain, thinking, _ = self._prompts
        explained = begin in thinking and end in thinking and begin not in plain
        return explained or any(prompt.endswith((begin, end)) for prompt in self._prompts)

    def _contains(self, marker: str) -> bool:
        text = self._render([_user()], None, variables={"thinking": True})
        return text is not None and marker in text


def _around(before: str, after: str) -> ReasoningFormat | None:
    """Return the markers between which a template has written reasoning."""
    for form in REASONING:
        if before.rstrip().endswith(form.begin.strip()) and form.end.strip() in after:
            return form
    begin, end = _TAGS.search(before), _TAG.match(after)
    if begin is None or end is None or begin[1] == end[1]:
        return None
    return ReasoningFormat(begin[1], end[1])


def _closing(after: str, form: ReasoningFormat) -> str:
    """Return the end of reasoning in a text that follows it, with the white space around it.

    White space after it that grammars do not know is left out.
    """
    match = re.match(r"\s{0,4}" + re.escape(form.end.strip() + form.after), after)
    if match is None:
        return ""
    space = re.match(r"\s*", after[match.end() :])
    assert space is not None
    return match[0] + (space[0] if re.fullmatch(SPACE_AFTER, space[0]) else "")


def _channel(before: str) -> Family | None:
    for family in FAMILIES:
        begin = "" if family.channels is None else family.channels.reasoning_begin.strip()
        if begin and before.endswith(begin):
            return family
    return None


def _user() -> dict[str, Any]:
    return {"role": "user", "content": _QUESTION}


def _assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _calling(count: int, ids: Sequence[str]) -> dict[str, Any]:
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        for id, (name, arguments) in zip(ids, _CALLS[:count], strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _results(count: int, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": id, "name": name, "content": _RESULT}
        for id, name in zip(ids, _NAMES[:count], strict=False)
    ]


def _reads(family: Family, region: str, count: int) -> bool:
    """Whether a family's parser reads the calls that a template has written."""
    calls = () if family.calls is None else (family.calls,)
    form = AnswerForm(
        calls, wrappers=family.wrappers, control=frozenset(family.wrappers),
        channels=family.channels,
    )  # fmt: skip
    parser = AnswerParser(form, _SCHEMAS)
    events = [*parser.feed(region), *parser.finish()]
    names = [event.name for event in events if isinstance(event, CallStart)]
    texts = [event.text for event in events if isinstance(event, CallArguments)]
    last = max((n for n, event in enumerate(events) if isinstance(event, CallStart)), default=0)
    before = "".join(event.text for event in events[:last] if isinstance(event, Content))
    if names != list(_NAMES[:count]) or any(name in before for name in _NAMES):
        return False
    return [json.loads(text) for text in texts] == list(_ARGUMENTS[:count])


def _with_head(form: CallFormat, region: str, count: int) -> CallFormat:
    """Return a format with the head that the template has written, of those that it may have."""
    for head in (form.head, *form.heads):
        others = tuple(other for other in (form.head, *form.heads) if other != head)
        written = replace(form, head=head, heads=others)
        if _wrote(written, region, count, free=True):
            return written
    return form


def _wrote(form: CallFormat, region: str, count: int, free: bool) -> bool:
    """Whether the template writes calls as this format does, except for ids; with ``free``, also
    except for white space."""
    written = write_calls(form, _CALLS[:count])
    if free:
        written, region = ("".join(text.split()) for text in (written, region))
    pattern = re.sub(r"call0000\d", r"\\w{0,64}", re.escape(written))
    return re.search(pattern, region) is not None
