"""How many tokens a step should propose. Pure: callers pass the measured times.

A proposed token is a further row of the step. What it costs depends on the model, the machine and
the number of rows: next to nothing where the weights are read from memory once for all rows, and
nearly as much as a step of its own where computing is what takes the time. What it brings depends
on how often such proposals are accepted. Both are measured, and nothing is assumed for long.

Two rules keep ordinary answers fast:

- A draft is decoded only if the measured costs and the acceptance say that it pays.
- An account bounds the loss, however wrong these are. Drafts that cost more than they bring
  overdraw it; then there are none until plain steps have paid 1 % of their time into it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MOST = 63
"""Most tokens that are proposed for one sequence."""
LADDER = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 19, 23, 27, 31, 39, 47, 55, 63)
"""Numbers of tokens that are considered."""
_GAIN = 1.03
"""Factor by which a draft must be expected to speed up the step before it is decoded."""
_SHARE = 0.01
"""Share of the time of plain steps that may be lost by drafts that do not pay."""
_CREDIT = 2.0
"""Plain steps that the account holds at the start, and up to which plain steps fill it."""
_EARNED = 16.0
"""Largest balance, in plain steps. Drafts that pay fill it, so that a few in a row that are not
accepted do not end them."""
_WEIGHT = 0.2
"""Weight of a new measurement of a cost in its running mean."""
_OUTLIER = 2.0
"""A measurement counts at most as this multiple of what was expected, and at least as its inverse:
other programs can make any step slow."""
_PAUSE = 0.25
"""Seconds. Longest step with drafts: nothing is cancelled and nothing begins meanwhile."""
_LENGTHENED = 4.0
"""Steps that are longer than that must not become longer than by this factor."""
_UNLIKELY = 0.05
"""Drafts are not as long as to be accepted as a whole with a probability below this."""
_PRIOR_ROW = 0.15
"""Cost of a further row, relative to the mean cost of the known ones, until it is measured. It is
low, so that the cost is measured once; the account bounds what that can lose."""
_FORGOTTEN = 1000
"""Plain steps after which the costs of drafts are measured again: the machine may have changed."""
_EXACT, _COARSE = 16, 4
"""Up to this many rows each number has its own cost; beyond, steps of this size share one."""
_DECAY = 0.99
"""Weight of the past when a draft of the same kind is judged."""


class Wish(NamedTuple):
    """What a sequence could draft: up to ``most`` tokens, each accepted with probability
    ``rate`` if those before it are. ``effort`` is what the proposal of a token costs, in
    seconds."""

    most: int
    rate: float
    effort: float = 0.0


class Acceptance:
    """How often proposed tokens of each kind are what the model samples."""

    def __init__(self, prior: float = 0.5, weight: float = 1.0) -> None:
        self._prior = prior
        self._weight = weight
        self._counts: dict[str, tuple[float, float]] = {}

    def judge(self, kind: str, agreed: int, tried: int) -> None:
        """Note that of ``tried`` tokens the first ``agreed`` were right; at most one was wrong."""
        old_agreed, old_tried = self._counts.get(kind, (0.0, 0.0))
        decay = _DECAY**tried
        self._counts[kind] = (old_agreed * decay + agreed, old_tried * decay + tried)

    def forget(self, kind: str) -> None:
        """Forget how often proposals of a kind were right."""
        self._counts.pop(kind, None)

    def rate(self, kind: str, prior: float | None = None) -> float:
        """Return the probability that a token is accepted."""
        agreed, tried = self._counts.get(kind, (0.0, 0.0))
        prior = self._prior if prior is None else prior
        return (self._weight * prior + agreed) / (self._weight + tried)


class Costs:
    """Time of a decode call by its number of rows, relative to a scale.

    The scale follows the speed of the machine in every step, so that the costs stay right when all
    of it becomes slower. The unit is the time of the first step that was observed.
    """

    def __init__(self) -> None:
        self.scale = 0.0
        """Seconds per unit; 0 until a step was observed."""
        self._known: dict[int, float] = {}
        self._estimated: dict[int, float] = {}
        """The costs that were estimated since the last measurement."""

    def plain(self, rows: int, seconds: float) -> None:
        """Learn from a step without drafts."""
        bucket = _bucket(rows)
        if not self.scale:
            self.scale, self._known[bucket] = seconds, 1.0
        elif bucket in self._known:
            expected = self._known[bucket] * self.scale
            self.scale *= 1 + _WEIGHT * (_clipped(seconds / expected) - 1)
        else:
            self.learn(rows, seconds)

    def learn(self, rows: int, seconds: float) -> None:
        """Learn what a call with so many rows takes."""
        bucket, cost = _bucket(rows), seconds / self.scale
        old = self._known.get(bucket)
        expected = self.of(rows) if old is None else old
        cost = expected * _clipped(cost / expected)
        self._known[bucket] = cost if old is None else old + _WEIGHT * (cost - old)
        self._estimated.clear()

    def forget(self, rows: int) -> None:
        """Forget all costs but that of a plain step."""
        bucket = _bucket(rows)
        self._known = {bucket: self._known[bucket]}
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
            return low + part * (max(low, self._known[above]) - low)
        return low + (bucket - below) * self._slope(below)

    def _slope(self, largest: int) -> float:
        """Return the estimated cost of each row beyond the largest known number."""
        smaller = max((r for r in self._known if r < largest), default=None)
        mean = self._known[largest] / largest
        if smaller is None:
            return _PRIOR_ROW * mean
        slope = (self._known[largest] - self._known[smaller]) / (largest - smaller)
        return min(max(slope, 0.1 * mean), mean)


class DraftPace:
    """Decides how many tokens each sequence of a step drafts.

    Args:
        most_rows: most rows of a step.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self.costs = Costs()
        self.acceptance = Acceptance()
        self._balance = _CREDIT
        """Of the account, in plain steps."""
        self._plain = 0
        """Plain steps since the last draft."""

    def choose(self, streams: int, wishes: list[Wish]) -> list[int]:
        """Return how many tokens each of the wishing sequences drafts.

        All that draft get the same number: llama.cpp computes sequences together only as far as
        they have equally many tokens. The number is chosen for the greatest geometric mean of the
        speeds of all streams, so that no stream pays for a small gain of another.

        Args:
            streams: sequences that decode in the step, wishing or not.
            wishes: of some of them.
        """
        best, chosen = 0, 0.0
        rate = max((wish.rate for wish in wishes), default=0.0)
        if self.costs.scale and self._balance > 0:
            for count in LADDER:
                if rate**count < _UNLIKELY:
                    break  # nor are longer drafts accepted
                gain = self._gain(streams, wishes, count)
                if gain is None:
                    break
                if gain > chosen and gain > streams * math.log(_GAIN):
                    best, chosen = count, gain
        return [best if wish.most >= best else 0 for wish in wishes]

    def _gain(self, streams: int, wishes: list[Wish], count: int) -> float | None:
        """Return the logarithm of the product of the streams' speeds, relative to a plain step.

        None if a draft of ``count`` tokens is not possible, or its cost too uncertain.
        """
        able = [wish for wish in wishes if wish.most >= count]
        calls = _calls(streams, len(able), count)
        if not able or sum(calls) > self._most_rows or not self.costs.is_near(calls[-1]):
            return None
        cost = sum(map(self.costs.of, calls))
        if cost * self.costs.scale > _PAUSE and cost > _LENGTHENED * self.costs.of(streams):
            return None
        cost += sum(wish.effort for wish in able) * count / self.costs.scale
        gain = sum(math.log(expected(wish.rate, count)) for wish in able)
        return gain - streams * math.log(cost / self.costs.of(streams))

    def slowdown(self, streams: int, drafting: int, count: int) -> float:
        """Return how long a step with drafts is expected to take, relative to a plain one."""
        return sum(map(self.costs.of, _calls(streams, drafting, count))) / self.costs.of(streams)

    def plain(self, streams: int, seconds: float) -> None:
        """Learn from a step without drafts and prefill."""
        self.costs.plain(streams, seconds)
        if self._balance < _CREDIT:
            self._balance += _SHARE
        self._plain += 1
        if self._plain % _FORGOTTEN == 0:
            self.costs.forget(streams)

    def drafted(
        self, streams: int, drafting: int, count: int, tokens: int, seconds: float
    ) -> float:
        """Learn from a step with drafts and without prefill; return what it has gained, in plain
        steps.

        Args:
            streams: sequences that decoded.
            drafting: how many of them had a draft.
            count: proposed tokens in each draft.
            tokens: tokens that the step added to answers.
            seconds: time that it took, proposals included.
        """
        self._plain = 0
        *known, last = _calls(streams, drafting, count)
        before = sum(map(self.costs.of, known))
        expected_seconds = (before + self.costs.of(last)) * self.costs.scale
        seconds = expected_seconds * _clipped(seconds / expected_seconds)
        rest = max(seconds / self.costs.scale - before, 0.1 * self.costs.of(last))
        self.costs.learn(last, rest * self.costs.scale)
        taken = seconds / self.costs.scale / self.costs.of(streams)
        gain = tokens / streams - taken
        self._balance = min(_EARNED, self._balance + gain)
        return gain


def expected(rate: float, count: int) -> float:
    """Return how many tokens a step is expected to add: those accepted, and the sampled one."""
    return count + 1.0 if rate >= 1 else (1 - rate ** (count + 1)) / (1 - rate)


def _calls(streams: int, drafting: int, count: int) -> list[int]:
    """Return the rows of each part of a batch that llama.cpp computes at once: one token of every
    sequence, and then the rest, unless all have equally many."""
    if drafting == streams:
        return [streams * (1 + count)]
    return [streams, drafting * count]


def _bucket(rows: int) -> int:
    return rows if rows <= _EXACT else -(-rows // _COARSE) * _COARSE


def _clipped(ratio: float) -> float:
    return min(max(ratio, 1 / _OUTLIER), _OUTLIER)
