"""Reads the calls of an answer, from the marker that begins them to the one that ends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from offgrid.chat.call_bodies import Body, ObjectBody, body_of
from offgrid.chat.formats import CallFormat
from offgrid.chat.literals import FAILED, MAX_SPACE, MORE, Head, Literal, skip_space

Functions = Mapping[str, Mapping[str, Any] | None]
"""The offered functions: name -> schema of the arguments, None for any object."""


class Reading:
    """What is needed to read one format, made once per model."""

    def __init__(self, form: CallFormat) -> None:
        self.form = form
        self.begin = Literal(form.begin)
        self.call_begin = Literal(form.call_begin)
        self.call_end = Literal(form.call_end)
        self.end = Literal(form.end)
        self.separator = Literal(form.separator)
        self.heads = [Head(text + form.name_end) for text in (form.head, *form.heads)]
        self.has_head = form.body in ("json", "parameters", "gemma")
        """In the other formats, the name stands within the body."""

    @cached_property
    def openers(self) -> dict[str, Literal]:
        """First atom of a text that begins a call -> what must follow before the head or body."""
        found: dict[str, Literal] = {}
        begin, call_begin = self.begin.atoms, self.call_begin.atoms
        for atoms in (begin + call_begin, call_begin):
            if atoms:
                found.setdefault(atoms[0], Literal(atoms[1:]))
        if self.form.short_begin:
            found[self.form.short_begin] = Literal("")
        return found

    def fits(self, text: str, start: int) -> bool | None:
        """Return whether a call may begin at ``start``; None if more text is needed."""
        index = skip_space(text, start)
        if index - start <= MAX_SPACE and text[index : index + 1] == "[" and not self.has_head:
            start = index + 1
            index = skip_space(text, start)
        if index - start > MAX_SPACE:
            return False
        if index == len(text):
            return None
        if self.form.body in ("object", "keyed"):
            return text[index] == "{"
        may_be_empty = self.form.head.startswith("{id}")
        return text[index].isalnum() or text[index] in "_-" or may_be_empty


class CallParser:
    """Reads the calls that follow one opener. Failure leaves :attr:`raw`, which is content.

    Args:
        candidates: the formats that the opener may begin, with what must follow it in each.
        functions: the offered functions.
        opened: the opener.
        live: whether JSON arguments are passed on as they arrive, because a grammar guarantees
            that the call will be complete.
        start: called with the name when a call is certain.
        arguments: called with the next part of its arguments.
        name: the function, if the opener has named it; only the arguments follow.
        most: number of calls after which it ends, 0 for no limit.

    Attributes:
        raw: the text since the opener or the last complete call.
        space: at the end, the white space after the last complete call, without what the format
            itself has there.
        state: ``reading``, ``after`` a call, ``ended`` or ``failed``.
    """

    def __init__(
        self,
        candidates: Sequence[tuple[Reading, Literal]],
        functions: Functions,
        opened: str,
        *,
        live: bool,
        start: Callable[[str], None],
        arguments: Callable[[str], None],
        name: str = "",
        most: int = 0,
    ) -> None:
        self._candidates = candidates
        self._functions = functions
        self._live = live
        self._on_start = start
        self._on_arguments = arguments
        self._reading = candidates[0][0]
        self._list = False
        self._name = self._given = name
        self._most = most
        self._taken = 0
        self._body: Body | None = None
        self._decided = self._in_body = self._complete = self._closed = False
        self._call_end = self._reading.call_end
        self.started = False
        self.space = ""
        self.raw = [opened]
        self.state = "reading"
        self._step: Callable[[str], int] = self._arguments_only if name else self._choose

    def feed(self, text: str) -> str:
        """Read text; return the rest, which is to be fed again with the text that follows it.

        The caller looks at :attr:`state`: ``after`` a call it goes on feeding, ``ended`` and
        ``failed`` are final.
        """
        while text and self.state in ("reading", "after"):
            taken = self._step(text)
            if taken == MORE:
                break
            if taken == FAILED:
                self.state = "failed" if self.state == "reading" else "ended"
                self._take_space(self.state == "ended")
                break
            self.raw.append(text[:taken])
            text = text[taken:]
            if self._complete:
                self._complete = False
                self._take_call()
        return text

    @property
    def space_before(self) -> str:
        """The white space that the format has between content and a call."""
        return self._reading.form.space_before

    def _take_space(self, after: bool) -> None:
        """Keep the white space that follows the last call, if nothing else has been read since."""
        if after:
            read = "".join(self.raw)
            space = read[len(read.rstrip()) :]
            self.space = space.removeprefix(self._reading.form.space_after)

    def finish(self, text: str) -> str:
        """Handle the end of the answer; return what is content. ``text`` is what is held."""
        if self.state == "after":
            self._take_space(True)
            ends = [self._reading.end]
            ends += [self._call_end] if self._step == self._after_call else []
            return "" if any(end.match(text) == MORE for end in ends) else text
        return "".join(self.raw) + text if self.state in ("reading", "failed") else text

    # --- steps: each returns how many characters it has read, MORE or FAILED ------------------

    def _choose(self, text: str) -> int:
        """Find the first format that fits, if several begin with the same marker."""
        for reading, rest in self._candidates:
            end = rest.match(text)
            fits = None if end == MORE else end != FAILED and reading.fits(text, end)
            if fits is None:
                return MORE
            if fits:
                self._reading = reading
                self._step = self._item
                return end
        return FAILED

    def _item(self, text: str) -> int:
        """The beginning of a call, or of a list of calls."""
        index = skip_space(text)
        if index == len(text):
            return index
        if text[index] == "[" and not self._list and not self._reading.has_head:
            self._list = True
            return index + 1
        if text[index] == "]" and self._list and self._taken:
            self._list, self.state = False, "after"  # The last comma is one too many.
            self._close_list()
            return index + 1
        if self._reading.has_head:
            self._step = self._head
        else:
            self._open_body("")
        return index

    def _next_call(self, text: str) -> int:
        """After a separator, or where the next call must begin."""
        end = self._reading.call_begin.match(text)
        if end >= 0:
            self._step = self._item
        return end

    def _head(self, text: str) -> int:
        for head in self._reading.heads:
            end, name = head.match(text)
            if end == MORE:
                return MORE
            if end >= 0 and name in self._functions:
                self._open_body(name)
                return end
        return FAILED

    def _arguments_only(self, text: str) -> int:
        self._open_body(self._given)
        return 0

    def _open_body(self, name: str) -> None:
        self._name = name
        self._body = body_of(self._reading.form, self._functions.get(name), self._functions)
        self._call_end = self._reading.call_end
        self._decided = self._in_body = False
        self._step = self._read_body

    def _read_body(self, text: str) -> int:
        body = self._body
        assert body is not None
        index = 0 if self._in_body else skip_space(text)
        if index == len(text):
            return index
        self._in_body = True
        taken = index + body.scan(text[index:])
        if self._live and isinstance(body, ObjectBody):
            self._pass_on(body)
        if body.failed:
            self.state = "failed"
        elif body.done and self._reading.form.body == "parameters":
            self._step = self._required_end
        elif body.done:
            self._complete = True
        elif not taken:
            return MORE
        return taken

    def _required_end(self, text: str) -> int:
        """The text that shows that no argument follows: the end, whose beginning may be missing."""
        atoms = self._reading.call_end.atoms
        for n, atom in enumerate(atoms):
            end = Literal((atom,)).match(text)
            if end >= 0:
                self._call_end, self._complete = Literal(atoms[n + 1 :]), True
                return end
        self._complete = not atoms
        return FAILED if atoms else 0

    def _pass_on(self, body: ObjectBody) -> None:
        """Emit the arguments received so far, if they are an object after an offered name."""
        if not self._decided and body.begun:
            self._decided = True
            name = self._name or body.name_before_arguments()
            if name in self._functions:
                self._on_start(name)
                self.started = True
        if self.started:
            piece = body.last_arguments()
            if piece:
                self._on_arguments(piece)

    def _take_call(self) -> None:
        assert self._body is not None
        if not self.started:
            result = self._body.result()
            name = self._name or ("" if result is None else result[0])
            if result is None or name not in self._functions:
                self.state = "failed"
                return
            self._on_start(name)
            self._on_arguments(result[1])
        self.raw = []
        self.space = ""
        self.started = False
        self._body = None
        self._taken += 1
        self.state = "ended" if self._given or self._taken == self._most else "after"
        self._step = self._after_call

    # --- after a call: nothing that is read here is content --------------------------------------

    def _after_call(self, text: str) -> int:
        """The end of the call, which may be missing."""
        end = self._call_end.match(text)
        if end == MORE:
            return MORE
        self._step = self._between
        return max(end, 0)

    def _between(self, text: str) -> int:
        """Find the next call, or the end of the list or section."""
        space = skip_space(text)
        if space:
            return space
        reading = self._reading
        if self._list:
            if text[0] in "],":
                self._list = text[0] == ","
                if self._list:
                    self._expect(self._item)
                else:
                    self._close_list()
                return 1
            return FAILED
        options = [(reading.end, self._over)]
        if not self._closed:
            options += [(reading.separator, self._next_call), (reading.call_begin, self._item)]
        for literal, step in options:
            end = literal.match(text) if literal.atoms else FAILED
            if end == MORE:
                return MORE
            if end >= 0:
                self._expect(step)
                return end
        if text[0] == "{" and reading.form.begin and not reading.call_begin.atoms:
            self._expect(self._item)  # Calls that only white space separates.
            return 0
        return FAILED

    def _close_list(self) -> None:
        """After a list: a call's end may follow, if the list stands for one call."""
        self._closed = True
        self._call_end = self._reading.call_end
        self._step = self._after_call

    def _expect(self, step: Callable[[str], int]) -> None:
        """Go on with another call, or after the end of the section."""
        self._step = step
        if step == self._over:
            return
        self._take_space(self.state == "after")
        self.state = "reading"
        self.raw = []

    def _over(self, text: str) -> int:
        return FAILED
