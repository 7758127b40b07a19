"""What a chat template reads and writes, found by rendering short conversations with it.

Templates have different names for the same thing: earlier reasoning is a field of the message in
one, a part of its content in another. A word that occurs nowhere else shows what arrives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

NEEDLE = "q7zneedle"
"""A word that no template contains, and that no filter of a template changes."""
REASONING_PART = "part"
"""Reasoning is read from a content part ``{"type": "thinking", "thinking": ...}``."""
_REASONING = ("reasoning_content", "reasoning", "thinking", "thought", REASONING_PART)
_KEY = "q7zkey"
_LISTED = re.compile(r"""["']type["']: *["']thinking""")
_ID = "a1b2c3d4e"
"""Some templates accept only ids of nine letters and digits."""

Message = dict[str, Any]
Write = Callable[[dict[str, Any]], str | None]
"""Renders variables with the template; None if it refuses them."""


@dataclass(frozen=True)
class Conventions:
    """What one template reads and writes.

    Attributes:
        typed: whether content must be a list of typed parts.
        reasoning: the field from which a message's reasoning is read, or :data:`REASONING_PART`.
        text_arguments: whether the arguments of a call must be text.
        null_content: whether calls are written only if the content of their message is null.
        either_content: whether calls are written only if their message has no content.
        keeps_content: whether the content of a message with calls is written.
        keeps_system: whether a system message in front of a user message is written or refused, and
            not omitted.
        keeps_first_system: whether several system messages in front are all written or refused,
            none of them omitted.
        keeps_later_system: the same of system messages after others.
        keeps_lone_system: the same of a system message without others.
        keeps_system_before_results: the same of a system message in front of a conversation that
            ends with a result.
        keeps_system_before_answer: the same if it ends with an answer.
        keeps_orphans: the same of results that follow no call.
        keeps_first_call: the same of a call with which the conversation begins, in a template that
            writes calls elsewhere.
        keeps_last_call: the same of a call with which it ends.
        writes_tools: whether functions are described.
        needs_full_tools: whether the template fails if an optional part of a function is missing,
            or for some types of parameters.
        writes_documents: whether ``documents`` are written.
    """

    typed: bool = False
    reasoning: str = "reasoning_content"
    text_arguments: bool = False
    null_content: bool = False
    either_content: bool = False
    keeps_content: bool = True
    keeps_system: bool = True
    keeps_first_system: bool = True
    keeps_later_system: bool = True
    keeps_lone_system: bool = True
    keeps_system_before_results: bool = True
    keeps_system_before_answer: bool = True
    keeps_orphans: bool = True
    keeps_first_call: bool = True
    keeps_last_call: bool = True
    writes_tools: bool = False
    needs_full_tools: bool = False
    writes_documents: bool = False


def find_conventions(write: Write) -> Conventions:
    """Return the conventions of a template; the usual ones if it writes no simple message."""
    # A template for conversations with tools or documents may fail without them.
    for always in ({}, {"tools": [_tool("f")]}, {"documents": [_document("t")]}):
        for typed in (False, True):
            probe = _Probe(write, typed, always)
            if probe.show(_user(NEEDLE)):
                return probe.conventions()
    return Conventions()


class _Probe:
    """Renders short conversations with a template whose ``typed`` is known.

    Every rendering has the variables ``always``.
    """

    def __init__(self, write: Write, typed: bool, always: dict[str, Any]) -> None:
        self._write = write
        self._typed = typed
        self._always = always
        self._text_arguments = False

    def conventions(self) -> Conventions:
        self._text_arguments = self._takes_text_arguments()
        tools = [_tool(NEEDLE)]
        needle = f'{{"{_KEY}": "{NEEDLE}"}}' if self._text_arguments else {_KEY: NEEDLE}
        answered = (_user("u"), {"role": "assistant", "content": "a"})
        result = {"role": "tool", "content": NEEDLE, "tool_call_id": _ID, "name": "f"}
        null_content = not self.show(*_called({"content": ""}, needle)) and self.show(
            *_called({"content": None}, needle)
        )
        asked, call, answer = _called({"content": None if null_content else ""}, needle)
        writes_calls = self.show(asked, call, answer)
        either = writes_calls and not self.show(*_called({"content": "c"}, needle))
        return Conventions(
            typed=self._typed,
            reasoning=self._reasoning(),
            text_arguments=self._text_arguments,
            null_content=null_content,
            either_content=either,
            keeps_content=not either and self.show(*self._called({"content": NEEDLE})),
            keeps_system=not self._omits(_system(NEEDLE), _user("u")),
            keeps_first_system=not (
                self._omits(_system(NEEDLE), _system("s"), _user("u"))
                or self._omits(_system("s"), _system(NEEDLE), _user("u"))
            ),
            keeps_later_system=not (
                self._omits(_system(NEEDLE), *answered, _system("s"), _user("u"))
                or self._omits(_system("s"), *answered, _system(NEEDLE), _user("u"))
            ),
            keeps_lone_system=not self._omits(_system(NEEDLE)),
            keeps_system_before_results=not self._omits(
                _system(NEEDLE), *self._called({"content": ""})
            ),
            keeps_system_before_answer=not self._omits(_system(NEEDLE), *answered),
            keeps_orphans=not self._omits(*answered, _user("u"), result),
            keeps_first_call=not (writes_calls and self._omits(call, answer, tools=[_tool("f")])),
            keeps_last_call=not (writes_calls and self._omits(asked, call)),
            writes_tools=(
                self.show(_user("u"), tools=tools)
                or self.show(_system("s"), _user("u"), tools=tools)
            ),
            needs_full_tools=self._needs_full_tools(),
            writes_documents=self.show(_user("u"), documents=[_document(NEEDLE)]),
        )

    def show(self, *messages: Message, **variables: Any) -> bool:
        """Return whether the template writes the needle."""
        return NEEDLE in (self._render(messages, **variables) or "")

    def _omits(self, *messages: Message, **variables: Any) -> bool:
        """Return whether the template accepts the messages, but does not write the needle."""
        written = self._render(messages, **variables)
        return written is not None and NEEDLE not in written

    def _render(self, messages: Iterable[Message], **variables: Any) -> str | None:
        if self._typed:
            messages = map(_with_parts, messages)
        variables = {**self._always, **variables, "add_generation_prompt": True}
        return self._write({**variables, "messages": list(messages)})

    def _reasoning(self) -> str:
        for name in _REASONING:
            thoughtful: Message = {"content": "a", name: NEEDLE}
            silent: Message = {"content": "", name: NEEDLE}
            if name == REASONING_PART:
                thinking = {"type": "thinking", "thinking": NEEDLE}
                thoughtful = {"content": [thinking, {"type": "text", "text": "a"}]}
                silent = {"content": [thinking]}
            answer = {"role": "assistant", **thoughtful}
            for messages in (
                [_user("u"), answer],
                [_user("u"), answer, _user("u")],
                self._called(silent),
            ):
                written = self._render(messages) or ""
                # Templates that know only text write a list as JSON or as Python does.
                if NEEDLE in written and not _LISTED.search(written):
                    return name
        return _REASONING[0]

    def _takes_text_arguments(self) -> bool:
        """Return whether arguments given as an object are refused or written as in Python."""
        text = f'{{"{_KEY}": "{NEEDLE}"}}'
        for content in ("", None):
            written = self._render(_called({"content": content}, {_KEY: NEEDLE})) or ""
            if NEEDLE in written and f"{{'{_KEY}': '{NEEDLE}'}}" not in written:
                return False
            if text in (self._render(_called({"content": content}, text)) or ""):
                return True
        return False

    def _needs_full_tools(self) -> bool:
        """Return whether parts that clients leave out are needed, or their types refused."""
        kinds: tuple[dict[str, Any], ...] = (
            {},
            {"type": ["string", "null"]},
            {"type": "object", "properties": {}},
        )
        functions: list[dict[str, Any]] = [
            {"name": "f"},
            *(
                {"name": "f", "parameters": {"type": "object", "properties": {"k": kind}}}
                for kind in kinds
            ),
        ]
        return self._render([_user("u")], tools=[_tool("f")]) is not None and any(
            self._render([_user("u")], tools=[{"type": "function", "function": function}]) is None
            for function in functions
        )

    def _called(self, fields: Message) -> list[Message]:
        return _called(fields, "{}" if self._text_arguments else {"k": "v"})


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _tool(name: str) -> dict[str, Any]:
    properties = {"k": {"type": "string", "description": "d"}}
    parameters = {"type": "object", "properties": properties, "required": ["k"]}
    function = {"name": name, "description": "d", "parameters": parameters}
    return {"type": "function", "function": function}


def _document(text: str) -> dict[str, Any]:
    return {"doc_id": "1", "title": "t", "text": text}


def _called(fields: Message, arguments: Any) -> list[Message]:
    """Return a conversation with a call and its result; ``fields`` belong to the call's message."""
    call = {"id": _ID, "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        _user("u"),
        {"role": "assistant", "tool_calls": [call], **fields},
        {"role": "tool", "content": "r", "tool_call_id": _ID, "name": "f"},
    ]


def _with_parts(message: Message) -> Message:
    if not isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
