"""What a decode call costs by its number of rows, measured while the model runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_WEIGHT = 0.2
"""Least weight of a new measurement of a cost in its running mean."""
_BEFORE = 0.5
"""Measurements for which what was expected counts if it is lower: other programs may have made the
first step with so many rows slow, and a cost that seems too high is not measured again. Nothing
makes a step fast by chance."""
_OUTLIER = 2.0
"""A measurement counts at most as this multiple of what was expected, and at least as its inverse:
other programs can make any step slow."""
_PRIOR_ROW = 0.15
"""Cost of a further row, relative to the mean cost of the known ones, until one is measured. It is
low, so that the cost is measured once; the account bounds what that can lose."""
_CHEAPEST, _DEAREST = 0.1, 0.6
"""The same, least and most, beyond the largest number of rows that was measured. Many kernels of
llama.cpp compute groups of 4, 8 or 16 rows, and then a larger number may be much cheaper per row
than the costs before it promise. Only a low guess finds that out."""
_WHOLE, _BETWEEN = 8, 0.5
"""Between two measured numbers, multiples of eight are guessed low too: so much of the difference
counts."""
_EXACT, _COARSE = 16, 4
"""Up to this many rows each number has its own cost; beyond, steps of this size share one."""


class Costs:
    """Time of a decode call by its number of rows, relative to a scale.

    The scale follows the speed of the machine in every step, so that the costs stay right when all
    of it becomes slower. The unit is the time of a call with one row or, until one was measured,
    of the first step that was observed.

    Args:
        known: costs of an earlier load; see :attr:`known`.

    Attributes:
        scale: seconds per unit; 0 until a step was observed.
    """

    def __init__(self, known: Mapping[int, float] | None = None) -> None:
        self.scale = 0.0
        self._known: dict[int, float] = dict(known or {})
        self._measured: dict[int, int] = dict.fromkeys(self._known, 2)
        """How often each of them was measured; those of an earlier load count twice."""
        self._estimated: dict[int, float] = {}
        """The costs that were estimated since the last measurement."""

    @property
    def known(self) -> dict[int, float]:
        """The costs that were measured, in units: number of rows -> cost. Beyond 16 rows, each
        stands for itself and the three numbers below."""
        return dict(self._known)

    def plain(self, rows: int, seconds: float) -> None:
        """Learn from a step without drafts."""
        bucket = _bucket(rows)
        if not self.scale:
            self._known.setdefault(bucket, self.of(rows) if self._known else 1.0)
            self.scale = seconds / self._known[bucket]
        elif bucket in self._known:
            expected = self._known[bucket] * self.scale
            self.scale *= 1 + _WEIGHT * (clipped(seconds / expected) - 1)
        else:
            self.learn(rows, seconds)

    def learn(self, rows: int, seconds: float) -> None:
        """Learn what a call with so many rows takes."""
        bucket, cost = _bucket(rows), seconds / self.scale
        old = self._known.get(bucket)
        expected = self.of(rows) if old is None else old
        cost = expected * clipped(cost / expected)
        times = self._measured[bucket] = self._measured.get(bucket, 0) + 1
        before = _BEFORE if cost > expected else 0.0
        self._known[bucket] = expected + max(_WEIGHT, 1 / (before + times)) * (cost - expected)
        self._estimated.clear()

    def forget(self, rows: int) -> None:
        """Forget all costs but that of a plain step."""
        bucket = _bucket(rows)
        self._known = {bucket: self._known[bucket]}
        self._measured.clear()
        self._estimated.clear()

    def is_near(self, rows: int) -> bool:
        """Whether the cost is known, or can be estimated from at least half as many rows."""
        return _bucket(rows) <= 2 * max(self._known) + 1

    def of(self, rows: int) -> float:
        """Return the cost of a call: measured, or estimated from the nearest numbers of rows."""
        bucket = _bucket(rows)
        cost = self._known.get(bucket) or self._estimated.get(bucket)
        if cost is None:
            cost = self._estimated[bucket] = self._estimate(bucket)
        return cost

    def _estimate(self, bucket: int) -> float:
        below = max((r for r in self._known if r < bucket), default=None)
        above = min((r for r in self._known if r > bucket), default=None)
        if below is None:
            return self._known[above] if above is not None else 1.0
        low = self._known[below]
        if above is not None:
            part = (bucket - below) / (above - below)
            if bucket % _WHOLE == 0:
                part *= _BETWEEN
            return low + part * (max(low, self._known[above]) - low)
        return low + (bucket - below) * self._slope(below)

    def _slope(self, largest: int) -> float:
        """Return the estimated cost of each row beyond the largest known number."""
        smaller = max((r for r in self._known if r < largest), default=None)
        mean = self._known[largest] / largest
        if smaller is None:
            return _PRIOR_ROW * mean
        slope = (self._known[largest] - self._known[smaller]) / (largest - smaller)
        return min(max(slope, _CHEAPEST * mean), _DEAREST * mean)


def clipped(ratio: float) -> float:
    """Return the ratio of a measurement to what was expected, as far as it counts."""
    return min(max(ratio, 1 / _OUTLIER), _OUTLIER)


def _bucket(rows: int) -> int:
    return rows if rows <= _EXACT else -(-rows // _COARSE) * _COARSE
