"""Puts the spans of a step into the batch, in the order in which llama.cpp computes them fastest.

llama.cpp computes sequences together only if their slots are consecutive and in order; otherwise it
computes them one after another. Streams are kept apart from prompts, because together they would
attend to as many cells as the prompts do.
"""

from __future__ import annotations

import numpy as np

from offgrid.engine.worker.branch_rows import BranchRows
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scoring import ScoredSpan
from offgrid.engine.worker.sequence import Sequence
from offgrid.engine.worker.spans import BatchSpan

_ANY_TOKEN = np.zeros(1, dtype=np.int32)

Bridge = tuple[int, int]
"""An idle slot between two running ones, and the position at which it gets an unneeded token."""


def build_batch(
    model: Model, scheduler: Scheduler[Sequence], spans: list[BatchSpan[Sequence]]
) -> FilledBatch:
    """Fill the model's batch: prompts, then streams, each in the order of their slots."""
    batch = FilledBatch(model, spans)
    spans = sorted(spans, key=lambda span: span.sequence.slot)
    room = model.batch.capacity - sum(span.size for span in spans)
    streams = [span for span in spans if span.count == 1 and span.completes]
    bridges = scheduler.bridges(streams, room)
    if len(streams) == len(spans):  # most steps prefill nothing
        batch.add_streams(streams, bridges)
    elif _adjacent(streams, bridges):
        batch.add_spans([span for span in spans if span.count > 1 or not span.completes], [])
        if streams:
            batch.add_streams(streams, bridges)
    else:  # a prompt's span may fill the gap: add all spans in the order of slots
        batch.add_spans(spans, scheduler.bridges(spans, room))
    return batch


class DraftedSpan:
    """A span with proposed tokens in a batch.

    Attributes:
        sequence: the sequence.
        slot: its slot. The sequence may have left it when the draft is cut.
        tokens: the proposed tokens.
        first: batch index of the token before them, whose logits verify the first one.
        end: index after the last proposed token in the sequence, if all are accepted.
        accepted: how many of them are in the answer.
    """

    __slots__ = ("accepted", "end", "first", "sequence", "slot", "tokens")

    def __init__(self, span: BatchSpan[Sequence], first: int) -> None:
        self.sequence = span.sequence
        self.slot = span.sequence.slot
        self.tokens = span.draft
        self.first = first
        self.end = span.start + span.size
        self.accepted = 0


class FilledBatch:
    """The spans in the model's batch. Created by :func:`build_batch`.

    Attributes:
        spans: the spans that it computes.
        complete: sequences whose next token can be sampled afterwards.
        indices: the batch index of the logits of each of them.
        drafts: the spans that have a draft.
        ends: slot -> batch index of the last token of its span.
        bridges: idle slots that got an unneeded token, which must be cut off afterwards.
        addresses: addresses of the logits of each complete sequence, valid until the next decode.
        scored: spans of prompts that get logprobs.
        branched: spans of sequences that compute branches.
    """

    __slots__ = (
        "_model", "addresses", "branched", "bridges", "complete", "drafts", "ends", "indices",
        "scored", "spans",
    )  # fmt: skip

    def __init__(self, model: Model, spans: list[BatchSpan[Sequence]]) -> None:
        self._model = model
        self.spans = spans
        self.complete: list[Sequence] = []
        self.indices: list[int] = []
        self.ends: dict[int, int] = {}
        self.bridges: list[Bridge] = []
        self.addresses: list[int] = []
        self.scored: list[ScoredSpan] = []
        self.drafts: list[DraftedSpan] = []
        self.branched: list[BranchRows] = []
        model.batch.clear()

    def decode(self) -> None:
        """Compute the batch, and find the addresses of its logits.

        Raises:
            DecodeError: llama.cpp failed.
        """
        self._model.decode()
        branching = [span for span in self.spans if span.sequence.branching is not None]
        if branching:
            self._set_apart(branching)
        self.addresses = [self._model.logits(index) for index in self.indices]
        self.scored = [
            ScoredSpan(self._model, span, self.ends[span.sequence.slot])
            for span in self.spans
            if span.sequence.scored < span.sequence.n_prompt
        ]

    def _set_apart(self, branching: list[BatchSpan[Sequence]]) -> None:
        """Leave out the sequences from whose logits nothing is sampled."""
        self.branched = [
            BranchRows(self._model, span, self.ends[span.sequence.slot]) for span in branching
        ]
        pairs = [
            (sequence, index)
            for sequence, index in zip(self.complete, self.indices, strict=True)
            if sequence.branching is None
        ]
        self.complete = [sequence for sequence, _ in pairs]
        self.indices = [index for _, index in pairs]

    def add_streams(self, streams: list[BatchSpan[Sequence]], bridges: list[Bridge]) -> None:
        """Add spans of one token each, and the tokens of bridges, in one call."""
        if any(span.draft for span in streams):
            self.add_spans(streams, bridges)
            return
        self.bridges = bridges
        single = [
            (s.slot, s.position(span.start), int(s.tokens[span.start]), True)
            for span, s in ((span, span.sequence) for span in streams)
        ]
        for slot, position in bridges:
            self._model.cut(slot, position)
            single.append((slot, position, 0, False))
        single.sort()
        slots, positions, tokens, want = map(list, zip(*single, strict=True))
        indices = self._model.batch.add_each(slots, positions, tokens, want)
        self.ends.update(zip(slots, indices, strict=True))
        self.complete.extend(span.sequence for span in streams)
        self.indices.extend(index for index, wanted in zip(indices, want, strict=True) if wanted)

    def add_spans(self, spans: list[BatchSpan[Sequence]], bridges: list[Bridge]) -> None:
        """Add spans one by one, and the tokens of bridges, in the order of slots."""
        self.bridges = bridges
        batch = self._model.batch
        waiting = iter([*bridges, (self._model.n_parallel, 0)])
        gap, position = next(waiting)
        for span in spans:
            sequence = span.sequence
            while gap < sequence.slot:
                self._model.cut(gap, position)
                batch.add(gap, position, _ANY_TOKEN, 0)
                gap, position = next(waiting)
            tokens = sequence.tokens[span.start : span.start + span.count]
            if span.draft:
                tokens = np.concatenate((tokens, np.array(span.draft, dtype=np.int32)))
            start = sequence.position(span.start)
            index = batch.add(sequence.slot, start, tokens, span.n_logits)
            self.ends[sequence.slot] = index
            if span.completes:
                self.complete.append(sequence)
                self.indices.append(index - len(span.draft))
            if span.draft:
                self.drafts.append(DraftedSpan(span, index - len(span.draft)))


def _adjacent(spans: list[BatchSpan[Sequence]], bridges: list[Bridge]) -> bool:
    """Whether the slots of spans and bridges are consecutive."""
    slots = [span.sequence.slot for span in spans] + [slot for slot, _ in bridges]
    return not slots or max(slots) - min(slots) == len(slots) - 1
