"""Asks the sources of one sequence for drafts, and counts what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from offgrid.engine.worker.drafts.pace import Acceptance, DraftPace, expected
from offgrid.engine.worker.drafts.prediction import Prediction
from offgrid.engine.worker.drafts.source import Draft, Drafted, Source

NO_DRAFT = Draft([], "")


class Counts(NamedTuple):
    """The counts of one sequence, as in :class:`~offgrid.engine.protocol.Delta`."""

    drafted: int = 0
    accepted: int = 0
    prediction_accepted: int = 0
    prediction_rejected: int = 0


NO_COUNTS = Counts()


class Drafter:
    """The sources of one sequence.

    Every proposal is judged by the tokens that follow, whether or not it was decoded, so that it is
    known at any time how often the proposals of each kind are right.

    Args:
        sources: all of them are asked; among equally promising drafts, that of the first is used.
        prediction: the one of them whose tokens are counted for the client, or None.

    Attributes:
        drafted: tokens that were proposed and decoded.
        accepted: how many of these are in the answer.
    """

    def __init__(self, sources: Sequence[Source], prediction: Prediction | None = None) -> None:
        self._sources = sources
        self._prediction = prediction
        self._acceptance = Acceptance(weight=4.0)
        """Of this sequence, which may be more or less predictable than others."""
        self._asked: Source | None = None
        """The source of the latest draft; None if that is the draft model's."""
        self._drafts: list[Draft] = []
        """What the sources proposed lately."""
        self._end = 0
        """Length of the sequence when they were asked."""
        self._decoded: list[int] = []
        """What of the decoded draft may still come, the next token last."""
        self.drafted = 0
        self.accepted = 0

    def propose(self, sequence: Drafted, most: int, pace: DraftPace) -> Draft:
        """Return the most promising draft, possibly an empty one."""
        self._judge(sequence, pace)
        self._end = len(sequence)
        best, promised, self._asked = NO_DRAFT, 1.0, None
        for source in self._sources:
            draft = source.propose(sequence, most)
            if draft.tokens:
                self._drafts.append(draft)
                promise = expected(self.rate(draft.kind, pace), len(draft.tokens))
                if promise > promised:
                    best, promised, self._asked = draft, promise, source
        return best

    def take(self, draft: Draft) -> None:
        """Use the draft of the draft model, which drafts for several sequences at once, and not
        that of a source."""
        self._asked = None
        self._drafts.append(draft)

    def _judge(self, sequence: Drafted, pace: DraftPace) -> None:
        """Compare the latest drafts with the tokens that the answer has got since."""
        if not self._drafts:
            return
        came = sequence.tokens[self._end : len(sequence)].tolist()
        for tokens, kind in self._drafts:
            agreed = 0
            for token, proposed in zip(came, tokens, strict=False):
                if token != proposed:
                    break
                agreed += 1
            tried = min(agreed + 1, len(came), len(tokens))
            self._acceptance.judge(kind, agreed, tried)
            pace.acceptance.judge(kind, agreed, tried)
        self._drafts.clear()

    def rate(self, kind: str, pace: DraftPace) -> float:
        """Return the probability that a proposed token is accepted, if those before it are."""
        return self._acceptance.rate(kind, pace.acceptance.rate(kind))

    def decoded(self, tokens: Sequence[int]) -> None:
        """Count a draft that has just been decoded. Call it before its rows are sampled."""
        self.drafted += len(tokens)
        self._decoded = [*reversed(tokens)]

    def came(self, token: int) -> None:
        """Note the next token of the answer."""
        if not self._decoded:
            return
        if self._decoded.pop() == token:
            self.accepted += 1
        else:
            self._decoded.clear()

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Note that the rest of the decoded draft is refused."""
        self._decoded.clear()
        if self._asked is not None:
            self._asked.verified(sequence, proposed, accepted)

    @property
    def predicts(self) -> bool:
        """Whether the request has a prediction."""
        return self._prediction is not None

    def counts(self, sequence: Drafted, timed: bool) -> Counts:
        """Return the counts for a :class:`~offgrid.engine.protocol.Delta`.

        Only one with times has those of drafts. All have those of the prediction, because the
        server may end a choice at any of them.
        """
        drafted, accepted = (self.drafted, self.accepted) if timed else (0, 0)
        if self._prediction is None:
            return Counts(drafted, accepted)
        self._prediction.follow(sequence)
        return Counts(drafted, accepted, self._prediction.accepted, self._prediction.rejected)
