"""How far proposed tokens are trusted: what is known of how often they were right. Pure.

Whether a text goes on as proposed is not a matter of chance in each token. An answer that quotes a
page goes on for a long time, one that has three words in common with it does not, and the longer a
proposal has been right, the longer it is expected to stay so. Therefore a probability is not all
that is known: 2 of 2 and 50 of 50 right tokens give the same rate, and not the same expectation.
:class:`Trust` has both counts, and stands for a beta distribution of the probability.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_DECAY = 0.99
"""Weight of the past when a draft of the same kind is judged."""
_NONE_WRONG = 0.02
"""Least count of wrong tokens: nothing is certain."""
_PRIORS = {
    "prediction": 0.95,
    "prediction found": 0.5,
    "forced": 0.8,
    "lookup 3": 0.3,
    "lookup 4": 0.45,
    "lookup 6": 0.65,
    "lookup 10": 0.9,
    "lookup resumed": 0.6,
}
"""Rates that are assumed of each kind of draft until something is known. Who sends a prediction
knows the answer; a longer match is more likely to go on."""
_UNKNOWN = 0.5


class Trust(NamedTuple):
    """What is known of proposed tokens: how many were right, and how many wrong."""

    right: float
    wrong: float

    @property
    def rate(self) -> float:
        """The probability that the next token is right."""
        return self.right / (self.right + self.wrong)

    def all_right(self, count: int) -> float:
        """Return the probability that the next ``count`` tokens are right."""
        a, both = self.right, self.right + self.wrong
        return math.exp(
            math.lgamma(a + count) - math.lgamma(a) - math.lgamma(both + count) + math.lgamma(both)
        )

    def expected(self, count: int) -> float:
        """Return how many tokens a step with a draft of ``count`` tokens is expected to add: those
        that are right up to the first wrong one, and the sampled one."""
        if count == 0:
            return 1.0
        less = self.wrong - 1.0
        if abs(less) < 1e-3:  # the sum below is 0 / 0 there
            less = 1e-3
            return 1.0 + Trust(self.right, 1.0 + less)._sum(count, less)
        return 1.0 + self._sum(count, less)

    def _sum(self, count: int, less: float) -> float:
        """Return the sum of ``all_right(n)`` for n from 1 to ``count``; ``less`` is one less than
        the wrong tokens, and not 0."""
        return (self.right - (self.right + count) * self.all_right(count)) / less


class Acceptance:
    """How often proposed tokens of each kind are what the model samples.

    Args:
        weight: how many tokens what was known before counts for.
    """

    def __init__(self, weight: float = 4.0) -> None:
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

    def trust(self, kind: str, before: float | None = None) -> Trust:
        """Return what is known of a kind.

        Args:
            kind: the name of the kind.
            before: the probability that is assumed as long as little is known.
        """
        agreed, tried = self._counts.get(kind, (0.0, 0.0))
        before = _PRIORS.get(kind, _UNKNOWN) if before is None else before
        right = self._weight * before + agreed
        return Trust(right, max(self._weight * (1.0 - before) + tried - agreed, _NONE_WRONG))

    def rate(self, kind: str) -> float:
        """Return the probability that a token of a kind is accepted."""
        return self.trust(kind).rate
