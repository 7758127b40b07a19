"""How soon slots become free, from the answers so far: for Retry-After and for those who wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

_WEIGHT = 0.2
"""Weight of a new measurement in the running mean."""
LONGEST = 60
"""Seconds. Largest Retry-After."""


class Turnover:
    """Measures for how long sequences hold their slots.

    Args:
        slots: sequences that run at once.
        clock: monotonic seconds.
    """

    def __init__(self, slots: int, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._clock = clock
        self._began: dict[int, float] = {}
        """Request -> when it got its slots."""
        self._mean: float | None = None

    def began(self, id: int) -> None:
        """Note that a request got its first slot."""
        self._began.setdefault(id, self._clock())

    def ended(self, id: int) -> None:
        """Note that a request has ended. Harmless if it never began."""
        began = self._began.pop(id, None)
        if began is None:
            return
        seconds = self._clock() - began
        mean = seconds if self._mean is None else self._mean
        self._mean = mean + _WEIGHT * (seconds - mean)

    def seconds(self, turns: int) -> float | None:
        """Return in about how many seconds so many slots have become free; None if nothing is known
        yet: no request has ended, and none runs."""
        running = tuple(self._began.values())  # one call: another thread may change it
        mean, now = self._mean, self._clock()
        if mean is None:
            if not running:
                return None
            mean = now - min(running)  # at least so long
        elif running:
            # Long requests may run after short ones. They last at least as long as until now.
            mean = max(mean, now - sum(running) / len(running))
        return turns * mean / self._slots

    def retry_after(self, turns: int) -> int:
        """Return the value of a ``Retry-After`` header: whole seconds from 1 to 60."""
        return retry_after(self.seconds(turns))


def retry_after(seconds: float | None, unknown: int = 1) -> int:
    """Return the value of a ``Retry-After`` header: whole seconds from 1 to 60.

    Args:
        seconds: the estimate; None if there is none.
        unknown: the value without an estimate.
    """
    return unknown if seconds is None else max(1, min(LONGEST, math.ceil(seconds)))


def seconds_of_all(turnovers: Iterable[Turnover], turns: int) -> float | None:
    """Return in about how many seconds so many slots of several models, whichever they are, have
    become free; None if nothing is known yet."""
    turn = [seconds for turnover in turnovers if (seconds := turnover.seconds(1)) is not None]
    if not turn:
        return None
    if min(turn) <= 0.0:
        return 0.0
    return turns / sum(1.0 / seconds for seconds in turn)
