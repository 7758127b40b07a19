"""Asks the sources of one sequence for drafts, and counts what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from offgrid.engine.worker.drafts.pace import DraftPace
from offgrid.engine.worker.drafts.prediction import Prediction
from offgrid.engine.worker.drafts.source import Draft, Drafted, Source
from offgrid.engine.worker.drafts.trust import Acceptance, Trust

NO_DRAFT = Draft([], "")


class Counts(NamedTuple):
    """The counts of one sequence, as in :class:`~offgrid.engine.protocol.events.Delta`."""

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
        self._acceptance = Acceptance()
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

    def propose(
        self, sequence: Drafted, most: int, pace: DraftPace, *, costly: bool = True
    ) -> Draft:
        """Return the most promising draft, possibly an empty one.

        Args:
            sequence: to which the sources belong.
            most: most tokens of the draft.
            pace: knows how often proposals of all sequences were right.
            costly: whether sources are asked that take noticeable time.
        """
        self._judge(sequence, pace)
        self._end = len(sequence)
        best, promised, self._asked = NO_DRAFT, 1.0, None
        for source in self._sources:
            if source.costly and not costly:
                continue
            draft = source.propose(sequence, most)
            if draft.tokens:
                self._drafts.append(draft)
                promise = self.trust(draft.kind, pace).expected(len(draft.tokens))
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

    def trust(self, kind: str, pace: DraftPace) -> Trust:
        """Return how far proposed tokens of a kind are trusted."""
        return self._acceptance.trust(kind, pace.acceptance.rate(kind))

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

    def rewound(self) -> None:
        """Note that tokens were taken away from the sequence."""
        self._drafts.clear()
        self._decoded.clear()
        for source in self._sources:
            source.rewound()
        if self._prediction is not None and self._prediction not in self._sources:
            self._prediction.rewound()

    @property
    def predicts(self) -> bool:
        """Whether the request has a prediction."""
        return self._prediction is not None

    def counts(self, sequence: Drafted, timed: bool) -> Counts:
        """Return the counts for a :class:`~offgrid.engine.protocol.events.Delta`.

        Only one with times has those of drafts. All have those of the prediction, because the
        server may end a choice at any of them.
        """
        drafted, accepted = (self.drafted, self.accepted) if timed else (0, 0)
        if self._prediction is None:
            return Counts(drafted, accepted)
        self._prediction.follow(sequence)
        return Counts(drafted, accepted, self._prediction.accepted, self._prediction.rejected)
