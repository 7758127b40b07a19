"""Content filters in the worker: kept by digest, and applied to the text of each answer."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import NamedTuple

from offgrid.engine.protocol.commands import MAX_FILTERS
from offgrid.engine.protocol.events import TokenLogprob
from offgrid.errors import EngineFault
from offgrid.filters.program import FilterProgram
from offgrid.sampling import Filter, FilterStream

PRIMER = 64
"""Tokens of the prompt that are followed before the answer: a phrase may begin in the prompt."""


class KeptFilter(NamedTuple):
    """A filter for answers and one for prompts; None where it has no terms."""

    answers: Filter | None
    prompts: Filter | None


class Filters:
    """The content filters that the server has sent: the last :data:`MAX_FILTERS`. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptFilter] = {}
        self._lock = threading.Lock()

    def keep(self, program: FilterProgram) -> None:
        """Keep a filter for later requests."""
        answers = program.answers.filter()
        prompts = answers if program.prompts is None else program.prompts.filter()
        with self._lock:
            self._kept[program.digest] = KeptFilter(answers, prompts)
            while len(self._kept) > MAX_FILTERS:
                del self._kept[next(iter(self._kept))]

    def of(self, program: FilterProgram | None) -> KeptFilter | None:
        """Return the filter of a request; None if it has none.

        Raises:
            EngineFault: it is not kept, so the request must not be answered.
        """
        if program is None:
            return None
        with self._lock:
            kept = self._kept.get(program.digest)
        if kept is None:
            raise EngineFault("The content filter of this request is gone; try again.")
        return kept


class Screen:
    """Ends one answer before the first match of a filter.

    The filter reads the text that stop strings have left: reasoning, markers and calls too. The
    logprobs of a token are held back as long as its text is, and never sent if a match begins in
    it. Alternatives that contain a phrase by themselves are left out.

    Args:
        filter: the filter.
        primer: the end of the prompt's text.
    """

    def __init__(self, filter: Filter, primer: str) -> None:
        self._filter = filter
        self._stream = FilterStream(filter)
        self._stream.prime(primer)
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        """Tokens whose logprobs are held back: the last byte of each, counted from the first."""
        self._fed = self._sent = 0

    def advance(
        self,
        text: str,
        finish_reason: str | None,
        size: int,
        logprobs: tuple[TokenLogprob, ...],
    ) -> tuple[str, str | None, tuple[TokenLogprob, ...]]:
        """Take the next token.

        Args:
            text: text that is certain now.
            finish_reason: why the answer ends with it, or None.
            size: bytes of the token.
            logprobs: those of the token, if they are wanted.

        Returns:
            The same three, for what may be sent now.
        """
        text = self._stream.feed(text)
        if finish_reason is not None:
            text += self._stream.flush()
        if self._stream.matched:
            finish_reason = "content_filter"
        self._fed += size
        self._waiting.extend((self._fed, token) for token in logprobs)
        if not self._waiting:
            return text, finish_reason, ()
        # A replacement character may stand for a single byte: rather hold back too much.
        self._sent += len(text.encode("utf-8", "surrogatepass")) - 2 * text.count("\ufffd")
        everything = finish_reason is not None and not self._stream.matched
        ready = []
        while self._waiting and (everything or self._waiting[0][0] <= self._sent):
            ready.append(self._shown(self._waiting.popleft()[1]))
        return text, finish_reason, tuple(ready)

    def _shown(self, token: TokenLogprob) -> TokenLogprob:
        if not token.top:
            return token
        shown = [not self._filter.found(piece.decode("utf-8", "replace")) for piece, _ in token.top]
        top = tuple(itertools.compress(token.top, shown))
        ids = tuple(itertools.compress(token.ids, shown))
        return TokenLogprob(token.token, token.piece, token.logprob, top, token.silent, ids)
