"""How many tokens a step should propose. Pure: callers pass the measured times.

A proposed token is a further row of the step. What it costs depends on the model, the machine and
the number of rows: next to nothing where the weights are read from memory once for all rows, and
nearly as much as a step of its own where computing is what takes the time. What it brings depends
on how often such proposals are accepted. Both are measured, and nothing is assumed for long.

Two rules keep ordinary answers fast:

- A draft is decoded only if the measured costs and the acceptance say that it pays.
- An account bounds the loss, however wrong these are. A draft is decoded only if the account can
  nearly pay for it even if none of its tokens is accepted. What drafts have gained fills the
  account, and 1 % of the time of plain steps does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from offgrid.engine.worker.drafts.costs import Costs, clipped
from offgrid.engine.worker.drafts.trust import Acceptance, Trust

MOST = 63
"""Most tokens that are proposed for one sequence."""
LADDER = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 19, 23, 27, 31, 32, 39, 47, 48, 55, 63)
"""Numbers of tokens that are considered. With the token before them, or alone in a call, they make
rows in fours, eights and sixteens, as llama.cpp's kernels compute them."""
_GAIN = 1.03
"""Factor by which a draft must be expected to speed up the step before it is decoded."""
_SHARE = 0.01
"""Share of the time of plain steps that may be lost by drafts that do not pay."""
_CREDIT = 2.0
"""Plain steps that the account holds at the start, and up to which plain steps fill it."""
_OVERDRAFT = 2.0
"""Plain steps by which one draft may overdraw the account."""
_EARNED = 64.0
"""Largest balance, in plain steps. Drafts that pay fill it, so that a few long ones in a row that
are not accepted do not end them."""
_PAUSE, _PAUSE_OF_ALL = 0.25, 0.5
"""Seconds. Longest step with drafts of some streams, and of all: nothing is cancelled and nothing
begins meanwhile, and streams without a draft wait."""
_LENGTHENED = 4.0
"""Steps that are longer than that must not become longer than by this factor."""
_FORGOTTEN = 1000
"""Plain steps after which the costs of drafts are measured again: the machine may have changed."""


_CERTAIN = Trust(1000.0, 0.001)
_REMEMBERED = 16
"""Steps for which the answer of :meth:`DraftPace.may_pay` is used again."""


class Wish(NamedTuple):
    """What a sequence could draft: up to ``most`` tokens, and how far these are trusted. ``effort``
    is what the proposal of a token costs, in seconds."""

    most: int
    trust: Trust
    effort: float = 0.0


class DraftPace:
    """Decides how many tokens each sequence of a step drafts.

    Args:
        most_rows: most rows of a step.
        costs: those of an earlier load; see :attr:`Costs.known`.
    """

    def __init__(self, most_rows: int, costs: Mapping[int, float] | None = None) -> None:
        self._most_rows = most_rows
        self.costs = Costs(costs)
        self.acceptance = Acceptance()
        self._balance = _CREDIT
        """Of the account, in plain steps."""
        self._plain = 0
        """Plain steps since the last draft."""
        self._may_pay: dict[tuple[int, int], bool] = {}
        self._asked = 0

    def may_pay(self, streams: int, drafting: int) -> bool:
        """Return whether any draft could pay, even if all of its tokens were certainly accepted.

        If not, nothing needs to be proposed that takes time to find.

        Args:
            streams: sequences that decode in the step.
            drafting: how many of them could draft.
        """
        if not self.costs.scale or self._balance <= 0:
            return False
        self._asked += 1
        if self._asked % _REMEMBERED == 0:
            self._may_pay.clear()
        key = streams, drafting
        if key not in self._may_pay:
            wish = Wish(MOST, _CERTAIN)
            self._may_pay[key] = any(
                any(self.choose(streams, [wish] * count)) for count in {1, drafting}
            )
        return self._may_pay[key]

    def choose(self, streams: int, wishes: list[Wish]) -> list[int]:
        """Return how many tokens each of the wishing sequences drafts.

        All that draft get the same number: llama.cpp computes sequences together only as far as
        they have equally many tokens. The number is chosen for the greatest geometric mean of the
        speeds of all streams, so that no stream pays for a small gain of another.

        Args:
            streams: sequences that decode in the step, wishing or not.
            wishes: of some of them.
        """
        best, chosen = 0, streams * math.log(_GAIN)
        if self.costs.scale and self._balance > 0:
            for count in LADDER:
                gain = self._gain(streams, wishes, count)
                if gain is None:
                    break
                if gain > chosen:
                    best, chosen = count, gain
        return [best if wish.most >= best else 0 for wish in wishes]

    def _gain(self, streams: int, wishes: list[Wish], count: int) -> float | None:
        """Return the logarithm of the product of the streams' speeds, relative to a plain step.

        None if no draft of ``count`` tokens or more is possible, or its cost is too uncertain.
        Minus infinity if it would take too long, or lose more than the account can pay. A longer
        one may be cheaper.
        """
        able = [wish for wish in wishes if wish.most >= count]
        calls = _calls(streams, len(able), count)
        if not able or sum(calls) > self._most_rows or not self.costs.is_near(calls[-1]):
            return None
        cost, plain = sum(map(self.costs.of, calls)), self.costs.of(streams)
        pause = _PAUSE_OF_ALL if len(able) == streams else _PAUSE
        if cost * self.costs.scale > pause and cost > _LENGTHENED * plain:
            return -math.inf
        if cost / plain - 1.0 > self._balance + _OVERDRAFT:
            return -math.inf
        cost += sum(wish.effort for wish in able) * count / self.costs.scale
        gain = sum(math.log(wish.trust.expected(count)) for wish in able)
        return gain - streams * math.log(cost / plain)

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
        seconds = expected_seconds * clipped(seconds / expected_seconds)
        rest = max(seconds / self.costs.scale - before, 0.1 * self.costs.of(last))
        self.costs.learn(last, rest * self.costs.scale)
        taken = seconds / self.costs.scale / self.costs.of(streams)
        gain = tokens / streams - taken
        self._balance = min(_EARNED, self._balance + gain)
        return gain


def _calls(streams: int, drafting: int, count: int) -> list[int]:
    """Return the rows of each part of a batch that llama.cpp computes at once: one token of every
    sequence, and then the rest, unless all have equally many."""
    if drafting == streams:
        return [streams * (1 + count)]
    return [streams, drafting * count]
