"""Adds drafts to the spans of a step, and learns from the step whether they paid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from offgrid.engine.worker.batching import FilledBatch
from offgrid.engine.worker.drafts.model import DraftModel
from offgrid.engine.worker.drafts.model_planner import Candidate, ModelPlanner
from offgrid.engine.worker.drafts.pace import MOST, DraftPace, Wish
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.engine.worker.spans import BatchSpan

_MOST_ROWS = 64
"""Most rows of a step with drafts. By then, a processor takes as long for each further row."""
_LOGITS = 16 << 20
"""Bytes. Most logits of a step with drafts: llama.cpp keeps the memory for them."""

Spans = list[BatchSpan[Sequence]]


class Planner:
    """Lets the running sequences draft.

    Args:
        n_vocab: size of a row of logits.
        capacity: most tokens of a step.
        draft_model: drafts for sequences whose sources propose nothing better; or None.
        costs: those of an earlier load; see :attr:`.costs.Costs.known`.

    Attributes:
        slowdown: how long the latest step is expected to take, relative to one without drafts.
    """

    def __init__(
        self,
        n_vocab: int,
        capacity: int,
        draft_model: DraftModel | None = None,
        costs: Mapping[int, float] | None = None,
    ) -> None:
        most_rows = max(1, min(_MOST_ROWS, capacity, _LOGITS // (4 * n_vocab)))
        self._capacity = capacity
        self.pace = DraftPace(most_rows, costs)
        self._model = None if draft_model is None else ModelPlanner(draft_model)
        self.slowdown = 1.0

    def extend(self, spans: Spans, most: int = MOST) -> Spans:
        """Return the spans of a step with drafts where they pay.

        Drafts use the room in the batch that is left; no span becomes shorter.
        """
        self.slowdown = 1.0
        if self._model is not None:
            self._model.begin()
        if not any(span.sequence.drafter is not None for span in spans):
            return spans
        room = self._capacity - sum(span.count for span in spans)
        asked: list[Candidate] = []
        decoding = [span.sequence for span in spans if span.sequence.status is Status.DECODING]
        streams = len(decoding)
        able = sum(sequence.drafter is not None for sequence in decoding)
        costly = able > 0 and self.pace.may_pay(streams, able)
        for place, span in enumerate(spans):
            sequence = span.sequence
            if sequence.status is not Status.DECODING:
                continue
            # A step adds the accepted tokens and one more.
            left = min(most, sequence.limit - sequence.completion_tokens - 1)
            drafter = sequence.drafter
            if drafter is not None and left > 0:
                draft = drafter.propose(sequence, left, self.pace, costly=costly)
                asked.append(Candidate(place, drafter, sequence, left, draft))
        # A step with prefill takes long enough, and it is not known what its drafts gain.
        if self._model is not None and streams == len(spans):
            asked = self._model.improve(self.pace, streams, asked)
        asked = [one for one in asked if one.draft.tokens]
        if not asked:
            return spans
        wishes = [
            Wish(len(one.draft.tokens), one.drafter.trust(one.draft.kind, self.pace))
            for one in asked
        ]
        counts = self.pace.choose(streams, wishes)
        if not any(counts) or sum(counts) > room:
            return spans
        spans = spans.copy()
        for one, count in zip(asked, counts, strict=True):
            if count:
                tokens = tuple(one.draft.tokens[:count])
                spans[one.place] = dataclasses.replace(spans[one.place], draft=tokens)
        drafting = [count for count in counts if count]
        self.slowdown = self.pace.slowdown(streams, len(drafting), drafting[0])
        return spans

    def observe(self, batch: FilledBatch, seconds: float) -> None:
        """Learn from a step without prefill.

        Args:
            batch: whose tokens were sampled.
            seconds: time that the step took, with the proposals.
        """
        streams, drafts = len(batch.spans), batch.drafts
        model = self._model
        if model is not None:  # what rows cost does not depend on the time of the draft model
            seconds -= model.seconds
        if not drafts:
            self.pace.plain(streams, seconds)
            if model is not None:
                model.plain(self.pace)
            return
        tokens = streams + sum(draft.accepted for draft in drafts)
        gain = self.pace.drafted(streams, len(drafts), len(drafts[0].tokens), tokens, seconds)
        if model is not None:
            model.gained(gain, {draft.slot for draft in drafts})
