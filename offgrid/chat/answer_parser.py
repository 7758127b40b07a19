"""Parses the text of an answer into a message: content, reasoning and tool calls.

:class:`AnswerParser` reads the text incrementally. Its events do not depend on how the text is
split, and it takes time proportional to the text. The rules:

- Reasoning stands at the beginning of an answer, and later only in formats that allow it there.
- A call must be complete and name an offered function. Any other text that looks like a call is
  content, markers included; parsing continues where it can no longer be a call.
- White space between a marker and content or reasoning belongs to neither. Where content continues
  after calls or another marker, the white space that the model wrote before and after them stands
  between the two texts, without what the format itself has there; if that is nothing, a line end.
  An empty line separates two messages in channels, and two texts of reasoning.
- If a grammar guarantees the calls, JSON arguments are emitted as they arrive; all others are
  emitted when the call is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from offgrid.chat.call_parser import CallParser, Reading
from offgrid.chat.formats import CallFormat, Channels, ReasoningFormat
from offgrid.chat.literals import MAX_HEAD, Literal, any_of


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

_PIECE = 256
"""Characters that are parsed at a time; the rest of a piece is copied at every marker in it."""
_NOTHING = Literal("")
_MESSAGE = Reading(CallFormat("json"))
"""A channel's message that consists of arguments."""


@dataclass(frozen=True)
class AnswerForm:
    """How one model writes answers.

    Attributes:
        calls: forms of calls that are read, the model's own first.
        reasoning: the markers of reasoning, None for a model without any.
        wrappers: markers around content that are not part of it.
        control: those wrappers that are control tokens of the model, and so are never content.
        channels: for answers in channels.
    """

    calls: tuple[CallFormat, ...] = ()
    reasoning: ReasoningFormat | None = None
    wrappers: tuple[str, ...] = ()
    control: frozenset[str] = frozenset()
    channels: Channels | None = None

    @cached_property
    def openers(self) -> dict[str, list[tuple[Reading, Literal]]]:
        """First atom of a call -> the formats that it may begin, and what must follow it."""
        found: dict[str, list[tuple[Reading, Literal]]] = {}
        for form in self.calls:
            reading = Reading(form)
            for opener, rest in reading.openers.items():
                found.setdefault(opener, []).append((reading, rest))
        return found

    @cached_property
    def bare(self) -> list[tuple[Reading, Literal]]:
        """The formats whose calls may begin without a marker."""
        return [(Reading(form), _NOTHING) for form in self.calls if form.bare]

    @cached_property
    def headers(self) -> frozenset[str]:
        """Texts with which a message in a channel begins."""
        if self.channels is None:
            return frozenset()
        tagged = (text for text in self.channels.header if text.strip() == text)
        return frozenset((self.channels.begin, *tagged))

    def markers(self, calls: bool) -> re.Pattern[str]:
        """Return the pattern of all markers that may follow content."""
        texts = {*self.wrappers, *self.headers}
        texts.update(self.openers if calls else ())
        texts.update(() if self.channels is None else self.channels.ends)
        if self.reasoning is not None and self.reasoning.repeated:
            texts.add(self.reasoning.begin.strip())
        return any_of(frozenset(texts), calls and bool(self.bare))


class AnswerParser:
    """Parses one choice.

    Args:
        form: how the model writes answers.
        functions: the offered functions: name -> schema of the arguments, None for any object. Or
            only their names.
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
        form: AnswerForm,
        functions: Mapping[str, Mapping[str, Any] | None] | Collection[str] = (),
        *,
        thinking: bool = False,
        constrained: bool = False,
        max_calls: int = 0,
    ) -> None:
        if not isinstance(functions, Mapping):
            functions = dict.fromkeys(functions)
        self._form = form
        self._functions = functions
        self._markers = form.markers(bool(functions))
        self._constrained = constrained
        self._max_calls = max_calls
        self.calls = 0
        self.thinking = thinking and form.reasoning is not None
        self.done = False
        self._events: list[AnswerEvent] = []
        self._kind: type[Content | Reasoning] = Content
        self._text: list[str] = []  # of the event that comes after self._events
        self._held = ""  # may become a marker, or belongs to a call
        self._space: list[str] = []  # content or reasoning, unless a marker follows
        self._trim = self.thinking  # whether white space now belongs to a marker
        self._gaps: dict[type[Content | Reasoning], list[str]] = {}
        """White space since the last text of a kind, if a marker has followed that text."""
        self._kinds: set[type[Content | Reasoning]] = set()  # what has been emitted
        self._fresh = True  # whether no content has followed the beginning or the last call
        self._wrapped = False  # whether a wrapper has come
        self._opened = ""  # text before the header that is being read
        self._call: CallParser | None = None
        self._state: Callable[[str], str] = self._read
        if form.channels is not None:
            self._state = self._first_header
        elif form.reasoning is not None:
            self._state = self._begin

    def feed(self, text: str) -> list[AnswerEvent]:
        """Parse the next text; return the events that are certain now."""
        for start in range(0, len(text), _PIECE):
            piece, self._held = self._held + text[start : start + _PIECE], ""
            while piece and not self.done:
                piece = self._state(piece)
        return self._taken()

    def finish(self) -> list[AnswerEvent]:
        """Return the remaining events, when the answer has ended."""
        call, self._call = self._call, None
        if self.done or (self._state == self._header and self._headed(self._held)):
            pass
        elif call is None:
            self._say(self._opened + self._held)
        elif not self._constrained:
            rest = call.finish(self._held)
            self._add_to_gap(call.space)
            self._say(rest)
        else:
            self._space = []  # A truncated call is not content either.
        self._held = ""
        if any(self._space):
            self._emit("".join(self._space))
            self._space = []
        self.done = True
        return self._taken()

    def _taken(self) -> list[AnswerEvent]:
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if self._text:
            self._events.append(self._kind("".join(self._text)))
            self._text = []

    # --- states: each parses some text and returns the rest -----------------------------------

    def _begin(self, text: str) -> str:
        """Parse the beginning of the answer, which may open reasoning, even if the prompt has.

        An answer without reasoning may begin with the end of reasoning (MiniMax M3, for example).
        """
        assert self._form.reasoning is not None
        begin, end = self._form.reasoning.begin.strip(), self._form.reasoning.end.strip()
        rest = text.lstrip()
        if not self._trim:
            self._space.append(text[: len(text) - len(rest)])
        if rest.startswith(begin):
            self._open_reasoning(self._think)
            return rest[len(begin) :]
        if rest.startswith(end):
            self._close_reasoning()
            return rest[len(end) :]
        if begin.startswith(rest) or end.startswith(rest):
            self._held = rest
            return ""
        self._state = self._think if self.thinking else self._read
        return rest

    def _think(self, text: str) -> str:
        assert self._form.reasoning is not None
        marker, rest = self._until(text, any_of(frozenset((self._form.reasoning.end.strip(),))))
        if marker:
            self._close_reasoning()
        return rest

    def _open_reasoning(self, state: Callable[[str], str]) -> None:
        self._end_text()
        self.thinking = True
        self._state = state

    def _close_reasoning(self) -> None:
        self._end_text()
        self.thinking = False
        self._fresh = True
        self._state = self._read

    def _read(self, text: str) -> str:
        """Parse content until a call, reasoning, a wrapper or another message begins."""
        form, offered = self._form, bool(self._functions)
        if self._fresh and offered and form.bare:
            rest = text.lstrip()
            self._say(text[: len(text) - len(rest)])
            if rest[:1] in ("{", "["):
                self._open_call(form.bare, "")
                return rest
            text = rest
        marker, rest = self._until(text, self._markers)
        if not marker:
            return rest
        if marker[0] == "\n":
            self._say(marker)
            self._open_call(form.bare, "")
        elif marker in form.wrappers:
            self._wrapper(marker)
        elif offered and marker in form.openers:
            self._open_call(form.openers[marker], marker)
        elif marker in form.headers:
            return self._open_header(marker, rest)
        elif form.channels is not None and marker in form.channels.ends:
            self._end_message()
        else:
            self._open_reasoning(self._think)
        return rest

    def _wrapper(self, marker: str) -> None:
        """Drop a wrapper, unless it is text in the middle of content."""
        if marker in self._form.control or self._fresh or self._wrapped:
            self._wrapped = True
            self._end_text()
        else:
            self._say(marker)

    # --- channels -----------------------------------------------------------------------------

    def _first_header(self, text: str) -> str:
        """The beginning of an answer: the rest of a header, another header, or bare content."""
        channels = self._form.channels
        assert channels is not None
        starts = (channels.begin, *channels.header, channels.header_end)
        if any(start.startswith(text) and start != text for start in starts):
            self._held = text
            return ""
        if text.startswith(channels.begin):
            return self._open_header(channels.begin, text[len(channels.begin) :])
        headed = not channels.header or text.startswith((*channels.header, channels.header_end))
        self._state = self._header if headed else self._read
        return text

    def _open_header(self, marker: str, rest: str) -> str:
        assert self._form.channels is not None
        self._state = self._header
        if marker == self._form.channels.begin:
            self._opened = marker
            return rest
        return marker + rest

    def _header(self, text: str) -> str:
        """Parse the header of a message."""
        channels = self._form.channels
        assert channels is not None
        end = channels.header_end
        index = text.find(end, 0, MAX_HEAD + len(end))
        if index < 0 and len(text) < MAX_HEAD + len(end):
            self._held = text
            return ""
        header, rest = text[: max(index, 0)], text[index + len(end) :]
        opened, self._opened = self._opened, ""
        if index < 0:
            # No header: its first character is content, so that it is not taken for one again.
            self._state = self._read
            self._say(opened + text[:1])
            return text[1:]
        call = re.fullmatch(channels.call, header, re.DOTALL) if channels.call else None
        if re.match(channels.reasoning, header):
            self._open_reasoning(self._reason)
        elif call is not None and call["name"] in self._functions:
            self._open_call([(_MESSAGE, _NOTHING)], f"{opened}{header}{end}", call["name"])
        elif call is not None or (
            not channels.header and f"{header}{end}" != channels.content_begin
        ):
            self._state = self._read  # A function that is not offered, or text without a header.
            self._say(f"{opened}{header}{end}")
        else:
            self._end_message()
        return rest

    def _headed(self, text: str) -> bool:
        """Whether a text without its end is a header, and not content without one."""
        channels = self._form.channels
        assert channels is not None
        known = (channels.content_begin, *self._functions)
        return bool(channels.header) or any(name.startswith(text) for name in known)

    def _reason(self, text: str) -> str:
        """Parse a message that is reasoning."""
        assert self._form.channels is not None
        ends = frozenset(self._form.channels.ends)
        marker, rest = self._until(text, any_of(ends | self._form.headers))
        if not marker:
            return rest
        self._close_reasoning()
        if marker in ends:
            self._end_message()
            return rest
        return self._open_header(marker, rest)

    def _end_message(self) -> None:
        self._end_text()
        self._state = self._read

    # --- calls --------------------------------------------------------------------------------

    def _open_call(
        self, candidates: list[tuple[Reading, Literal]], marker: str, name: str = ""
    ) -> None:
        self._call = CallParser(
            candidates, self._functions, marker, live=self._constrained, start=self._start,
            arguments=self._pass_arguments, name=name,
            most=max(0, self._max_calls - self.calls),
        )  # fmt: skip
        self._state = self._calling

    def _calling(self, text: str) -> str:
        """Feed the reader of calls, and go on where it ends."""
        call = self._call
        assert call is not None
        rest = call.feed(text)
        if 0 < self._max_calls <= self.calls and call.state in ("after", "ended"):
            self.done = True
        elif call.state in ("failed", "ended"):
            self._call, self._state = None, self._read
            self._add_to_gap(call.space)
            self._fresh = call.state == "ended"
            if call.state == "failed" and not call.started:
                self._say("".join(call.raw))
                self._fresh = False
        elif rest:
            self._held = rest
            return ""
        return rest

    def _start(self, name: str) -> None:
        """Begin a call that is certain."""
        assert self._call is not None
        self._end_text(self._call.space_before)
        self._flush()
        self._events.append(CallStart(self.calls, name))
        self.calls += 1

    def _pass_arguments(self, text: str) -> None:
        self._events.append(CallArguments(self.calls - 1, text))

    # --- text ---------------------------------------------------------------------------------

    def _until(self, text: str, markers: re.Pattern[str]) -> tuple[str, str]:
        """Emit the text before a marker; return the marker, if one was found, and the rest."""
        match = markers.search(text)
        if match is None:
            self._say(text)
            return "", ""
        self._say(text[: match.start()])
        if match["held"] is not None:
            self._held = match["held"]
            return "", ""
        return match[0], text[match.end() :]

    @property
    def _current(self) -> type[Content | Reasoning]:
        return Reasoning if self.thinking else Content

    def _end_text(self, own: str = "") -> None:
        """A marker follows the text so far.

        Args:
            own: white space that the format has before the marker.
        """
        for kind in self._kinds:
            self._gaps.setdefault(kind, [])
        self._add_to_gap("".join(self._space).removesuffix(own))
        self._space = []
        self._trim = True

    def _add_to_gap(self, space: str) -> None:
        if space and self._current in self._gaps:
            self._gaps[self._current].append(space)

    def _gap(self, kind: type[Content | Reasoning]) -> str:
        """Return what stands between the last text of a kind and the next one."""
        gap = self._gaps.pop(kind, None)
        if gap is None:
            return ""
        if kind is Reasoning or self._form.channels is not None:
            return "\n\n"
        return "".join(gap) or "\n"

    def _say(self, text: str) -> None:
        """Emit content or reasoning, but hold back white space that may belong to a marker."""
        if self._trim:
            body = text.lstrip()
            self._add_to_gap(text[: len(text) - len(body)])
            text = body
        if not text:
            return
        marked = self.thinking or self._functions or self._form.wrappers or self._form.channels
        body = text.rstrip() if marked else text
        if body:
            self._emit("".join(self._space) + body)
            self._space = []
            self._trim = self._fresh = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def _emit(self, text: str) -> None:
        kind = self._current
        text = self._gap(kind) + text
        self._kinds.add(kind)
        if kind != self._kind:
            self._flush()
            self._kind = kind
        self._text.append(text)
