"""Decides when the draft model drafts, and for which sequences."""

from __future__ import annotations

from typing import NamedTuple

from offgrid.engine.worker.drafts.account import Account
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.model import KIND, DraftModel
from offgrid.engine.worker.drafts.model import Wish as ModelWish
from offgrid.engine.worker.drafts.pace import DraftPace, Wish
from offgrid.engine.worker.drafts.source import Draft, Drafted

_MOST = 15
"""Most tokens of a draft: the draft model computes one after another."""
_FEW = 4
"""Missing tokens of a sequence up to which a call counts as one that computes a token of each
draft: those that were accepted, and the sampled one."""


class Candidate(NamedTuple):
    """A sequence that decodes in this step.

    Attributes:
        place: of its span.
        drafter: its sources.
        sequence: its tokens.
        left: most tokens that a draft may have.
        draft: what its sources propose; without tokens if they propose nothing.
    """

    place: int
    drafter: Drafter
    sequence: Drafted
    left: int
    draft: Draft


class ModelPlanner:
    """Lets the draft model draft where that pays.

    Args:
        model: the draft model.

    Attributes:
        account: what it may cost.
        seconds: how long it took in this step.
    """

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self.account = Account()
        self.seconds = 0.0
        self._drafted: set[int] = set()
        """Slots that have a draft of the draft model in this step."""

    def begin(self) -> None:
        """Note that a step begins."""
        self.seconds = 0.0
        self._drafted = set()

    def improve(
        self, pace: DraftPace, streams: int, candidates: list[Candidate]
    ) -> list[Candidate]:
        """Return the candidates, with drafts of the draft model where these are likely to save more
        time than what the sources propose."""
        step = pace.costs.of(streams) * pace.costs.scale
        if not (self._model.works and step and self.account.balance > 0):
            return candidates
        chosen = self._chosen(pace, candidates, step)
        count = self._count(pace, streams, candidates, chosen)
        if not count:
            return candidates
        wishes = [_wish(one, min(one.left, count)) for one in chosen]
        drafts = self._model.draft(wishes)
        self._learn(len(wishes), step)
        result = []
        for one in candidates:
            tokens = drafts.get(one.sequence.slot)
            if tokens:
                self._drafted.add(one.sequence.slot)
                one = one._replace(draft=Draft(tokens, KIND))
                one.drafter.take(one.draft)
            result.append(one)
        return result

    def _chosen(self, pace: DraftPace, candidates: list[Candidate], step: float) -> list[Candidate]:
        """Return the sequences for which the draft model is more likely to be right than their
        sources, as far as the account affords their missing tokens."""
        chosen: list[Candidate] = []
        total = 0
        for one in candidates:
            if _promise(one, pace) >= one.drafter.trust(KIND, pace).expected(_MOST):
                continue
            missing = self._model.missing(_wish(one, 1))
            if missing and self.account.affords(total + missing, step):
                chosen.append(one)
                total += missing
        return chosen

    def _count(
        self,
        pace: DraftPace,
        streams: int,
        candidates: list[Candidate],
        chosen: list[Candidate],
    ) -> int:
        """Return how many tokens the draft model shall propose for each of the chosen sequences."""
        if not chosen:
            return 0
        own = {one.place for one in chosen}
        effort = self.account.call / len(chosen)
        wishes = [
            Wish(min(one.left, _MOST), one.drafter.trust(KIND, pace), effort)
            if one.place in own
            else Wish(len(one.draft.tokens), one.drafter.trust(one.draft.kind, pace))
            for one in candidates
        ]
        counts = pace.choose(streams, wishes)
        return max(count for one, count in zip(candidates, counts, strict=True) if one.place in own)

    def _learn(self, sequences: int, step: float) -> None:
        effort = self._model.effort
        self.seconds = effort.catching_up + effort.drafting
        if effort.tokens <= _FEW * sequences:
            self.account.learn(0, 0.0, 1 + effort.more, self.seconds)
        else:
            self.account.learn(effort.tokens, effort.catching_up, effort.more, effort.drafting)
        self.account.pay(self.seconds, step)

    def plain(self, pace: DraftPace) -> None:
        """Note that no draft was decoded."""
        if self.account.plain():
            pace.acceptance.forget(KIND)

    def gained(self, steps: float, slots: set[int]) -> None:
        """Note what a step with drafts in some slots has gained, in plain steps."""
        if slots & self._drafted:
            self.account.gain(steps)


def _promise(one: Candidate, pace: DraftPace) -> float:
    """Return how many tokens a step is expected to add with what the sources propose."""
    return one.drafter.trust(one.draft.kind, pace).expected(len(one.draft.tokens))


def _wish(one: Candidate, most: int) -> ModelWish:
    return ModelWish(one.sequence.slot, one.sequence.tokens[: len(one.sequence)], most)
