"""Asks the sources of one sequence for drafts, and counts what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from offgrid.engine.worker.drafts.prediction import Prediction
from offgrid.engine.worker.drafts.source import Draft, Drafted, Source

NO_DRAFT = Draft([], "")


class Drafter:
    """The sources of one sequence.

    Args:
        sources: in the order of preference: the first that proposes something is used.
        prediction: the one of them whose tokens are counted for the client, or None.

    Attributes:
        drafted: tokens that were proposed and decoded.
        accepted: how many of these are in the answer.
    """

    def __init__(self, sources: Sequence[Source], prediction: Prediction | None = None) -> None:
        self._sources = sources
        self._prediction = prediction
        self._asked: Source | None = None
        """The source of the latest draft."""
        self.drafted = 0
        self.accepted = 0

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return the draft of the first source that has one."""
        for source in self._sources:
            draft = source.propose(sequence, most)
            if draft.tokens:
                self._asked = source
                return draft
        return NO_DRAFT

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Count a decoded draft."""
        assert self._asked is not None
        self.drafted += proposed
        self.accepted += accepted
        self._asked.verified(sequence, proposed, accepted)

    def counts(self, sequence: Drafted) -> dict[str, int]:
        """Return the counts of the last :class:`~offgrid.engine.protocol.Delta`."""
        counts = {"drafted": self.drafted, "draft_accepted": self.accepted}
        if self._prediction is not None:
            self._prediction.follow(sequence)
            counts["prediction_accepted"] = self._prediction.accepted
            counts["prediction_rejected"] = self._prediction.rejected
        return counts
