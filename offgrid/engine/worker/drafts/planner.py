"""Adds drafts to the spans of a step, and learns from the step whether they paid."""

from __future__ import annotations

import dataclasses

from offgrid.engine.worker.batching import FilledBatch
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.pace import MOST, DraftPace, Wish
from offgrid.engine.worker.drafts.source import Draft
from offgrid.engine.worker.scheduler import BatchSpan
from offgrid.engine.worker.scoring import SCORED_BYTES
from offgrid.engine.worker.sequence import Sequence, Status

_MOST_ROWS = 64
"""Most rows of a step with drafts. By then, a processor takes as long for each further row."""

Spans = list[BatchSpan[Sequence]]


class Planner:
    """Lets the running sequences draft.

    Args:
        n_vocab: size of a row of logits; llama.cpp keeps those of all rows of a decode in memory.
        capacity: most tokens of a step.
    """

    def __init__(self, n_vocab: int, capacity: int) -> None:
        most_rows = max(1, min(_MOST_ROWS, capacity, SCORED_BYTES // (4 * n_vocab)))
        self._capacity = capacity
        self.pace = DraftPace(most_rows)

    def extend(self, spans: Spans, most: int = MOST) -> Spans:
        """Return the spans of a step with drafts where they pay.

        Drafts use the room in the batch that is left; no span becomes shorter.
        """
        if not any(span.sequence.drafter is not None for span in spans):
            return spans
        room = self._capacity - sum(span.count for span in spans)
        asked: list[tuple[int, Drafter, Draft]] = []
        streams = 0
        for place, span in enumerate(spans):
            sequence = span.sequence
            if sequence.status is not Status.DECODING:
                continue
            streams += 1
            # A step adds the accepted tokens and one more.
            left = min(most, sequence.limit - sequence.completion_tokens - 1)
            drafter = sequence.drafter
            if drafter is not None and left > 0:
                draft = drafter.propose(sequence, left, self.pace)
                if draft.tokens:
                    asked.append((place, drafter, draft))
        if not asked:
            return spans
        wishes = [
            Wish(len(draft.tokens), drafter.rate(draft.kind, self.pace))
            for _, drafter, draft in asked
        ]
        counts = self.pace.choose(streams, wishes)
        if not any(counts) or sum(counts) > room:
            return spans
        spans = spans.copy()
        for (place, _, draft), count in zip(asked, counts, strict=True):
            if count:
                tokens = tuple(draft.tokens[:count])
                spans[place] = dataclasses.replace(spans[place], draft=tokens)
        return spans

    def observe(self, batch: FilledBatch, seconds: float) -> None:
        """Learn from a step without prefill.

        Args:
            batch: whose tokens were sampled.
            seconds: time that the step took, with the proposals.
        """
        streams, drafts = len(batch.spans), batch.drafts
        if not drafts:
            self.pace.plain(streams, seconds)
            return
        tokens = streams + sum(draft.accepted for draft in drafts)
        self.pace.drafted(streams, len(drafts), len(drafts[0].tokens), tokens, seconds)
