"""How the load of the server and of the machine developed: the last hour and the last day, in
memory. Nothing of it is on the disk, and it has no text and no name.

The size is fixed when the server starts. A point costs the same however many there are: old points
are overwritten in place.

A point is dated by a clock that only goes forward. Its time of the day is computed when somebody
asks, so setting the system's clock moves all points alike, and none is lost or doubled.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Window = Literal["hour", "day"]

STEP = 5.0
"""Seconds between two points of the hour."""
_EARLY = 0.8
"""A look that comes earlier than this part of :data:`STEP` gives no point."""
LONG_STEP = 60.0
"""Seconds between two points of the day."""
CAPACITY: dict[Window, int] = {"hour": 720, "day": 1440}
"""Points that each window has at most."""


class Counters(NamedTuple):
    """What only grows, since the server was started.

    Attributes:
        prompt: tokens of prompts that the workers have computed.
        completion: tokens that they have sampled.
        answered: POST requests that ended with a status below 400.
        refused: those that ended with 4xx, also because the client left.
        failed: those that ended with 5xx.
    """

    prompt: float = 0.0
    completion: float = 0.0
    answered: float = 0.0
    refused: float = 0.0
    failed: float = 0.0


class Gauges(NamedTuple):
    """What is so at the moment; NaN stands for what is not known.

    Attributes:
        running: sequences with a slot.
        waiting: sequences that wait for one.
        slots: slots of all loaded models.
        available: bytes of memory that programs could get.
        server: bytes of the server's process.
        workers: bytes of all workers.
        cpus: processors of the machine that are busy.
        temperature: degrees Celsius of the processor.
    """

    running: float = 0.0
    waiting: float = 0.0
    slots: float = 0.0
    available: float = math.nan
    server: float = math.nan
    workers: float = 0.0
    cpus: float = math.nan
    temperature: float = math.nan


COLUMNS = (*Counters._fields, *Gauges._fields)
"""The columns of a point. Tokens are per second, requests are numbers in the point's time."""
_SUMS = range(len(Counters._fields))
_RATES = frozenset({0, 1})
"""Columns that become a number per second."""


class Points(NamedTuple):
    """Some points of a window, the oldest first.

    Attributes:
        first: number of the first of them; points are numbered from 0 in each window.
        ages: how long ago each ended, in seconds.
        rows: of each the values of :data:`COLUMNS`; NaN where a value is not known.
    """

    first: int
    ages: list[float]
    rows: list[Sequence[float]]


def steady() -> float:
    """Return seconds that never go back and, where the system tells it, count while the machine
    sleeps."""
    awake = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if awake is None else time.clock_gettime(awake)


class Series:
    """The points of all windows. Thread-safe; nothing is done while the lock is held but copying.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = steady) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rings = {window: _Ring(most) for window, most in CAPACITY.items()}
        self._minute = _Sum()
        self._before: tuple[float, Counters] | None = None

    def add(self, counters: Counters, gauges: Gauges) -> None:
        """Note how things are now. The first call only says from where the counters count."""
        now = self._clock()
        if self._before is None:
            self._before = now, counters
            return
        began, old = self._before
        seconds = now - began
        if seconds < _EARLY * STEP:
            return
        self._before = now, counters
        grown = [max(0.0, new - before) for new, before in zip(counters, old, strict=True)]
        self._minute.add(seconds, grown, gauges)
        with self._lock:
            self._rings["hour"].add(now, _row(seconds, grown, gauges))
            if self._minute.seconds >= LONG_STEP - STEP / 2:
                self._rings["day"].add(now, self._minute.take())

    def points(self, window: Window, after: int = -1) -> Points:
        """Return the points of a window, or those with numbers above ``after``.

        A number that no point has yet is from before a restart, so it means all points.
        """
        now = self._clock()
        with self._lock:
            first, times, rows = self._rings[window].read(after)
        return Points(first, [max(0.0, now - at) for at in times], rows)


def _row(seconds: float, grown: Sequence[float], gauges: Sequence[float]) -> list[float]:
    counted = [one / seconds if n in _RATES else one for n, one in enumerate(grown)]
    return [*counted, *gauges]


class _Ring:
    """Rows of numbers, of which it keeps the latest ones.

    Args:
        most: how many it keeps.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = len(COLUMNS)
        self._times = array("d", bytes(8 * most))
        self._values = array("d", bytes(8 * most * self._width))
        self._count = 0
        """Rows that were ever added."""

    def add(self, at: float, row: Sequence[float]) -> None:
        """Put a row in the place of the oldest one."""
        place = self._count % self._most
        self._times[place] = at
        self._values[place * self._width : (place + 1) * self._width] = array("d", row)
        self._count += 1

    def read(self, after: int) -> tuple[int, list[float], list[Sequence[float]]]:
        """Return the number of the first row above ``after``, and the times and rows from there."""
        if after >= self._count:
            after = -1
        first = max(after + 1, self._count - self._most, 0)
        places = [number % self._most for number in range(first, self._count)]
        width = self._width
        rows = [self._values[place * width : (place + 1) * width] for place in places]
        return first, [self._times[place] for place in places], [*rows]


class _Sum:
    """Adds up points: counters are added, and gauges averaged over the time for which they are
    known."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.seconds = 0.0
        self._grown = [0.0] * len(Counters._fields)
        self._weighted = [0.0] * len(Gauges._fields)
        self._known = [0.0] * len(Gauges._fields)

    def add(self, seconds: float, grown: Sequence[float], gauges: Sequence[float]) -> None:
        """Add a point."""
        self.seconds += seconds
        for n in _SUMS:
            self._grown[n] += grown[n]
        for n, value in enumerate(gauges):
            if not math.isnan(value):
                self._weighted[n] += value * seconds
                self._known[n] += seconds

    def take(self) -> list[float]:
        """Return the sum as a row, and begin anew."""
        pairs = zip(self._weighted, self._known, strict=True)
        gauges = [value / known if known else math.nan for value, known in pairs]
        row = _row(self.seconds, self._grown, gauges)
        self._begin()
        return row
