"""Compares two numbers of threads. Pure: callers pass the measured times.

Steps with the tried number alternate with steps with the number in use, and each time is divided
by the usual time of a step of its shape. Means are weighted by time: one step that takes fifty
times as long, because a thread was not running, weighs as much as fifty other steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum

_BLOCK_SECONDS = 0.02
_BLOCK = 4
_LONGEST_BLOCK = 64
"""Steps with the tried number in a row: four, or as many as take 20 ms."""
_SHORTEST = 0.05
"""Seconds with the tried number before it can win."""
_LONG = 0.5
"""Seconds after which two steps are enough: each of them is a mean over many operations."""
_MOST = 32
_LONGEST = 0.25
"""Steps and seconds with the tried number after which a trial without a result ends."""
_LEADING = 4
"""A trial goes on for so many times longer while the tried number is ahead."""
_SIGMAS = 2.5
"""Standard errors by which two means must differ."""
_LIKELY_SPREAD = 1.0
"""Largest spread of the tried number's steps, relative to their mean, that is assumed before it was
measured."""
_LEAST_GAIN = 0.01
"""Smallest difference for which the number is changed, relative to the time of a step."""
_PATIENCE_STEPS = 1.0
_PATIENCE_SECONDS = 0.01
"""A trial ends when it has cost more than this many steps and seconds."""

_STALLS = 32
"""One step of so many may be stopped by chance; it must not decide."""

Step = tuple[float, float]
"""Usual and measured seconds of a step."""


class Verdict(Enum):
    """The result of a trial so far."""

    OPEN = 0
    BETTER = 1
    WORSE = 2


class Series:
    """Times of steps relative to the usual ones."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self.usual = 0.0
        self.seconds = 0.0
        self._steps: list[Step] = []
        self._sum = 0.0
        self._squares = 0.0
        for usual, seconds in steps:
            self.add(usual, seconds)

    def add(self, usual: float, seconds: float) -> None:
        """Add a step."""
        self._steps.append((usual, seconds))
        self.usual += usual
        self.seconds += seconds
        ratio = seconds / usual
        self._sum += ratio
        self._squares += ratio * ratio

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self._steps)

    @property
    def mean(self) -> float:
        """Measured time over usual time."""
        return self.seconds / self.usual if self.usual else 1.0

    @property
    def spread(self) -> float:
        """Standard deviation of the steps over their mean; infinite for fewer than two."""
        if self.count < 2:
            return math.inf
        variance = (self._squares - self._sum**2 / self.count) / (self.count - 1)
        return math.sqrt(max(0.0, variance)) * self.count / self._sum

    @property
    def mean_without_stalls(self) -> float:
        """As :attr:`mean`, without the step in every 32 that lost most time, but at least one."""
        if self.count < 2:
            return self.mean
        lost = sorted(self._steps, key=lambda step: step[0] - step[1])
        rest = lost[max(1, self.count // _STALLS) :]
        return sum(seconds for _, seconds in rest) / sum(usual for usual, _ in rest)


class Trial:
    """A comparison of a number of threads with the one in use.

    Args:
        number: the number that is tried.
        recent: steps with the number in use before the trial.
        fewest: steps with the tried number before it can win.

    Attributes:
        probe, control: steps with the tried number, and with the number in use.
    """

    def __init__(self, number: int, recent: Iterable[Step], fewest: int = 4) -> None:
        self.number = number
        self.control = Series(recent)
        self.probe = Series()
        typical = self.control.usual / max(1, self.control.count)
        self._block = min(_LONGEST_BLOCK, max(_BLOCK, math.ceil(_BLOCK_SECONDS / typical)))
        self._typical = typical
        self._fewest = fewest
        self._position = 0

    def probes_next(self) -> bool:
        """Return whether the next step uses the tried number; otherwise the one in use."""
        return self._position < self._block

    def add(self, usual: float, seconds: float) -> None:
        """Add a step, which used the number that :meth:`probes_next` said."""
        (self.probe if self.probes_next() else self.control).add(usual, seconds)
        self._position = (self._position + 1) % (self._block + self._block // 2)

    @property
    def cost(self) -> float:
        """Seconds that the tried number has cost so far; negative if it was faster."""
        return self.probe.seconds - self.control.mean * self.probe.usual

    def verdict(self) -> Verdict:
        """Return the result so far."""
        probe, control = self.probe, self.control
        if self.cost > max(_PATIENCE_STEPS * control.mean * self._typical, _PATIENCE_SECONDS):
            return Verdict.WORSE
        enough = probe.count >= self._fewest and probe.seconds >= _SHORTEST
        if not enough and (probe.count < 2 or probe.seconds < _LONG):
            return Verdict.OPEN
        gain = control.mean - probe.mean
        # The first few steps may all be lucky: assume that they vary as much as the others do.
        spread = max(probe.spread, min(control.spread, _LIKELY_SPREAD))
        own = _SIGMAS * spread * probe.mean / math.sqrt(probe.count)
        both = math.hypot(own, _SIGMAS * control.spread * control.mean / math.sqrt(control.count))
        least = _LEAST_GAIN * control.mean
        if gain < -max(least, both):
            return Verdict.WORSE
        surely = control.mean_without_stalls - probe.mean
        if surely > max(least, own) and (gain > both or surely > _SIGMAS * max(least, own)):
            return Verdict.BETTER
        most = max(_MOST, self._fewest) * (_LEADING if surely > least else 1)
        ends = probe.count >= most and probe.seconds >= _LONGEST
        return Verdict.WORSE if ends else Verdict.OPEN
