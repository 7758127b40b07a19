"""Parses the text of an answer into a message: content, reasoning and tool calls.

:class:`AnswerParser` reads the text incrementally. Its events do not depend on how the text is
split, and it takes time proportional to the text. The rules:

- Reasoning can only stand at the beginning of an answer.
- A call must have complete JSON and name an offered function. Any other text that looks like a call
  is content, markers included; parsing continues at the first wrong character.
- White space between markers and content belongs to the markers.
- If a grammar guarantees the calls, their arguments are emitted as they arrive; otherwise they are
  emitted when the call is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

from offgrid.chat.formats import HEAD, MAX_HEAD, ThoughtFormat, ToolFormat
from offgrid.chat.jsonscan import ObjectScanner


@dataclass(frozen=True)
class Content:
    """Text of the answer for the user."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """The beginning of a call; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """Text of a call's arguments, which are JSON."""

    index: int
    text: str


AnswerEvent = Content | Reasoning | CallStart | CallArguments
_KEYS = {"name", "arguments", "parameters", "id", "type"}


class AnswerParser:
    """Parses one choice.

    Args:
        tools: how calls are written, None if no functions are offered.
        names: the offered functions.
        thoughts: the reasoning markers, None for a model without reasoning.
        thinking: whether the prompt has already opened reasoning.
        constrained: whether a grammar guarantees that every call is complete and valid.
        max_calls: number of calls after which further text is ignored and :attr:`done` is true; 0
            for no limit.

    Attributes:
        calls: number of complete calls; with ``constrained``, of calls that have begun.
        thinking: whether the next text is reasoning, as far as is known.
        done: whether all further text is ignored.
    """

    def __init__(
        self,
        tools: ToolFormat | None = None,
        names: Collection[str] = (),
        thoughts: ThoughtFormat | None = None,
        *,
        thinking: bool = False,
        constrained: bool = False,
        max_calls: int = 0,
    ) -> None:
        self._tools = tools
        self._names = frozenset(names)
        self._thoughts = thoughts
        self._constrained = constrained
        self._max_calls = max_calls
        self.calls = 0
        self.thinking = thinking and thoughts is not None
        self.done = False
        self._events: list[AnswerEvent] = []
        self._held = ""  # may become a marker; shorter than one
        self._space: list[str] = []  # content or reasoning, unless a marker follows
        self._trim = self.thinking  # whether white space now belongs to a marker
        self._fresh = True  # whether no content has followed the beginning or the last call
        self._raw: list[str] = []  # content, unless it becomes a call
        self._closers: list[str] = []
        self._call: _Call | None = None
        self._state: Callable[[str], str] = self._read
        if thoughts is not None:
            self._state = self._think if thinking else self._begin

    def feed(self, text: str) -> list[AnswerEvent]:
        """Parse the next text; return the events that are certain now."""
        text = self._held + text
        self._held = ""
        while text and not self.done:
            text = self._state(text)
        return self._taken()

    def finish(self) -> list[AnswerEvent]:
        """Return the remaining events, when the answer has ended."""
        if self._constrained and self._raw:
            self._raw, self._space = [], []  # A truncated call is not content either.
        elif self._call is not None and self._call.started:
            self._raw = []
        elif self._state != self._close:  # In that state, _held is part of an end marker.
            held, self._held = "".join(self._raw) + self._held, ""
            self._say(held)
        if any(self._space):
            self._emit("".join(self._space))
        self.done = True
        return self._taken()

    def _taken(self) -> list[AnswerEvent]:
        events, self._events = self._events, []
        return events

    # --- states: each parses some text and returns the rest -----------------------------------

    def _begin(self, text: str) -> str:
        """Parse the beginning of the answer, which may open reasoning."""
        assert self._thoughts is not None
        rest = text.lstrip()
        self._space.append(text[: len(text) - len(rest)])
        if rest.startswith(self._thoughts.begin):
            self._space.clear()
            self.thinking = self._trim = True
            self._state = self._think
            return rest[len(self._thoughts.begin) :]
        if self._thoughts.begin.startswith(rest):
            self._held = rest
            return ""
        self._state = self._read
        return rest

    def _think(self, text: str) -> str:
        assert self._thoughts is not None
        found, rest = self._until(text, self._thoughts.end)
        if found:
            self._space.clear()
            self.thinking = False
            self._trim = self._fresh = True
            self._state = self._read
        return rest

    def _read(self, text: str) -> str:
        """Parse content until a call begins."""
        if self._tools is None:
            self._say(text)
            return ""
        if self._fresh and self._tools.begin_optional:
            rest = text.lstrip()
            self._say(text[: len(text) - len(rest)])
            if rest.startswith("{"):
                self._state = self._object
                return rest
            text = rest
        found, rest = self._until(text, self._tools.begin)
        if found:
            self._raw = [self._tools.begin]
            self._state = self._after_marker()
        return rest

    def _after_marker(self) -> Callable[[str], str]:
        assert self._tools is not None
        if self._tools.head_end:
            return self._head
        return self._open if self._tools.array else self._item

    def _open(self, text: str) -> str:
        """After a marker: the list of calls begins."""
        rest = self._skip_space(text)
        if rest.startswith("["):
            self._raw.append("[")
            self._state = self._item
            return rest[1:]
        return self._fail(rest) if rest else ""

    def _item(self, text: str) -> str:
        """After a marker or within a list: a call's object begins."""
        rest = self._skip_space(text)
        if rest.startswith("{"):
            self._state = self._object
            return rest
        return self._fail(rest) if rest else ""

    def _skip_space(self, text: str) -> str:
        rest = text.lstrip()
        self._raw.append(text[: len(text) - len(rest)])
        return rest

    def _head(self, text: str) -> str:
        """Parse the name before the arguments."""
        assert self._tools is not None
        start = len(self._tools.begin)
        for index, char in enumerate(text):
            self._raw[0] += char
            if self._raw[0].endswith(self._tools.head_end):
                match = HEAD.fullmatch(self._raw[0][start : -len(self._tools.head_end)])
                if match is None or match[1] not in self._names:
                    return self._fail(text[index + 1 :])
                self._call = _Call(match[1])
                self._state = self._object
                return text[index + 1 :]
            allowed = char.isascii() and (char.isalnum() or char in "_-[]")
            if not allowed or len(self._raw[0]) - start > MAX_HEAD:
                self._raw[0] = self._raw[0][:-1]
                return self._fail(text[index:])
        return ""

    def _object(self, text: str) -> str:
        """Parse the JSON object of a call."""
        if self._call is None:
            self._call = _Call()
        scanner = self._call.scanner
        base = scanner.position
        end = scanner.scan(text)
        self._raw.append(text[:end])
        if self._constrained:
            self._pass_on(self._call, text, base)
        if scanner.done:
            self._complete(self._call)
        elif scanner.failed:
            return self._fail(text[end:])
        return text[end:]

    def _close(self, text: str) -> str:
        """After a call: parse end markers, separators, or the next call of a list."""
        assert self._tools is not None
        text = text.lstrip()
        while text and self._closers:
            if text[0] == "," and self._closers[0] == "]":
                self._raw = [","]
                self._state = self._item
                return text[1:]
            if text.startswith(self._closers[0]):
                text = text[len(self._closers.pop(0)) :].lstrip()
            elif self._closers[0].startswith(text):
                self._held = text
                return ""
            else:
                self._closers.pop(0)
        if text:
            self._state = self._read
        return text

    # --- calls --------------------------------------------------------------------------------

    def _pass_on(self, call: _Call, text: str, base: int) -> None:
        """Emit the arguments received so far; ``text`` is the object from ``base`` on."""
        assert self._tools is not None
        if not call.decided and call.arguments_begun(self._tools.arguments):
            call.decided = True
            name = call.name_before_arguments("".join(self._raw))
            if name in self._names:
                self._start(name)
                call.started = True
        if call.started:
            start, end = call.arguments
            piece = text[max(0, start - base) : max(0, end - base)]
            if piece:
                self._events.append(CallArguments(self.calls - 1, piece))

    def _start(self, name: str) -> None:
        """Begin a call that has been recognised; white space around it is not content."""
        self._space = []
        self._trim = True
        self._events.append(CallStart(self.calls, name))
        self.calls += 1

    def _complete(self, call: _Call) -> None:
        """Handle the end of the object: it is a call, or it was content."""
        assert self._tools is not None
        if not call.started:
            name, arguments = call.parse("".join(self._raw))
            if name not in self._names:
                self._fail("")
                return
            self._start(name)
            self._events.append(CallArguments(self.calls - 1, arguments))
        self._raw, self._call = [], None
        self._fresh = True
        self.done = 0 < self._max_calls <= self.calls
        closers = ("]" if self._tools.array else "", self._tools.end, self._tools.separator)
        self._closers = [closer for closer in closers if closer]
        self._state = self._close

    def _fail(self, rest: str) -> str:
        """Emit the text as content unless the call has begun already; continue at ``rest``."""
        raw, self._raw = "".join(self._raw), []
        if self._call is None or not self._call.started:
            self._say(raw)
        self._fresh = False
        self._call = None
        self._state = self._read
        return rest

    # --- text ---------------------------------------------------------------------------------

    def _until(self, text: str, marker: str) -> tuple[bool, str]:
        """Emit the text before a marker; return whether the marker was found, and the rest."""
        index = text.find(marker)
        if index >= 0:
            self._say(text[:index])
            return True, text[index + len(marker) :]
        lengths = range(min(len(marker) - 1, len(text)), 0, -1)
        held = next((n for n in lengths if marker.startswith(text[-n:])), 0)
        self._say(text[: len(text) - held])
        self._held = text[len(text) - held :]
        return False, ""

    def _say(self, text: str) -> None:
        """Emit content or reasoning, but hold back white space that may belong to a marker."""
        if self._trim:
            text = text.lstrip()
        if not text:
            return
        body = text.rstrip() if self.thinking or self._tools is not None else text
        if body:
            self._emit("".join(self._space) + body)
            self._space = []
            self._trim = self._fresh = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def _emit(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        kind = Reasoning if self.thinking else Content
        if isinstance(last, kind):
            self._events[-1] = kind(last.text + text)
        else:
            self._events.append(kind(text))


class _Call:
    """A call that is being parsed.

    Attributes:
        scanner: scans its JSON object.
        decided: whether it is known if the arguments are emitted as they arrive.
        started: whether they are emitted as they arrive.
    """

    def __init__(self, name: str = "") -> None:
        self.scanner = ObjectScanner(None if name else _KEYS)
        self.decided = False
        self.started = False
        self._name = name
        self._key = ""

    @property
    def arguments(self) -> tuple[int, int]:
        """Offsets of the arguments within the object, as far as received."""
        if self._name:
            return 0, self.scanner.position
        return self.scanner.members.get(
            self._key, (self.scanner.value_start, self.scanner.position)
        )

    def arguments_begun(self, key: str) -> bool:
        """Return whether the value of this key, or the arguments object itself, has begun."""
        self._key = key
        return bool(self._name) or self.scanner.key == key or key in self.scanner.members

    def name_before_arguments(self, raw: str) -> str:
        """Return the name if it came before arguments that are an object, otherwise "".

        Args:
            raw: text that ends with the part of the object received so far.
        """
        if self._name:
            return self._name
        text = raw[len(raw) - self.scanner.position :]
        start, _ = self.arguments
        _, name_end = self.scanner.members.get("name", (0, len(raw) + 1))
        return self._name_in(text) if name_end <= start and text[start] == "{" else ""

    def parse(self, raw: str) -> tuple[str, str]:
        """Return name and arguments of a complete object; the name is "" if it is not a call."""
        text = raw[len(raw) - self.scanner.position :]
        if self._name:
            return self._name, text
        members = self.scanner.members
        if {"arguments", "parameters"} <= members.keys():
            return "", ""
        start, end = members.get("arguments") or members.get("parameters") or (0, 0)
        arguments = text[start:end] or "{}"
        return (self._name_in(text), arguments) if arguments[0] == "{" else ("", "")

    def _name_in(self, text: str) -> str:
        start, end = self.scanner.members.get("name", (0, 0))
        name = json.loads(text[start:end] or "null")
        return name if isinstance(name, str) else ""
