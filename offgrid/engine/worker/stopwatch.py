"""Measures how long the prompt and the answer of one sequence take."""

from __future__ import annotations

import time
from collections.abc import Callable

from offgrid.engine.protocol.events import Times


class Stopwatch:
    """Notes when a sequence begins to be computed, and when its tokens come.

    Args:
        clock: returns seconds; tests pass one that they set.
    """

    __slots__ = ("_began", "_clock", "_first", "_last")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._first: float | None = None
        self._last = 0.0

    def begin(self) -> None:
        """The computation of the prompt begins. Only the first call counts: a sequence that is
        preempted begins again."""
        if self._began is None:
            self._began = self._clock()

    def token(self) -> None:
        """A token of the answer has come; the first one ends the time of the prompt."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    @property
    def prompt_ms(self) -> float:
        """Time of the prompt so far, in milliseconds."""
        if self._began is None:
            return 0.0
        return 1000.0 * ((self._clock() if self._first is None else self._first) - self._began)

    @property
    def answer_ms(self) -> float:
        """Time from the first token of the answer to the latest one, in milliseconds."""
        return 0.0 if self._first is None else 1000.0 * (self._last - self._first)

    def times(self) -> Times:
        """Return the times up to the last token."""
        return Times(self.prompt_ms, self.answer_ms)
