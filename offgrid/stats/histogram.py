"""Counts of values in buckets, and percentiles of the latest values. Not thread-safe."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence

LATEST = 1000
"""Values of which percentiles are taken."""
PERCENTILES = (50, 90, 99)


class Histogram:
    """Counts of values by size.

    Args:
        bounds: upper bounds of the buckets, ascending; one more bucket holds larger values.

    Attributes:
        counts: values in each bucket, without those of smaller buckets.
        total: sum of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, once or several times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each bound as Prometheus writes it, with the number of values up to it."""
        rows = []
        below = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(below)))
        return rows


class Latest:
    """The latest values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=LATEST)

    def add(self, value: float) -> None:
        """Add a value; beyond :data:`LATEST`, the oldest one is dropped."""
        self._values.append(value)

    def percentiles(self) -> tuple[float, ...] | None:
        """Return the values at :data:`PERCENTILES` (nearest rank); None without any value."""
        return percentiles(self._values)


def percentiles(values: Iterable[float]) -> tuple[float, ...] | None:
    """Return the values at :data:`PERCENTILES` (nearest rank); None without any value."""
    ordered = sorted(values)
    if not ordered:
        return None
    # -(-a // b) rounds up.
    return tuple(ordered[-(-p * len(ordered) // 100) - 1] for p in PERCENTILES)
