"""Puts the rows of a step into the batch, in the order in which llama.cpp computes them fastest.

llama.cpp computes together what stands in the order of its slots, and everything else one after
another. Streams are kept apart from prompts, or they would attend over as many cells as these.
"""

from __future__ import annotations

import numpy as np

from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.scheduler import Row, Scheduler
from offgrid.engine.worker.scoring import Scored
from offgrid.engine.worker.sequence import Sequence

_ANY_TOKEN = np.zeros(1, dtype=np.int32)

Bridge = tuple[int, int]
"""An idle slot between others, and the position at which it gets a token."""


class Filled:
    """A filled batch: prompts, then streams, each in the order of their slots.

    Attributes:
        rows: what it computes.
        complete: sequences whose next token can be drawn.
        indices: where the logits of each of them will be.
        ends: slot -> place in the batch of the last token of its row.
        bridges: idle slots that got a token, to be cut off again afterwards.
        addresses: of the logits of each complete sequence, until the next decode.
        scored: rows of prompts that get logprobs.
    """

    __slots__ = (
        "_model", "addresses", "bridges", "complete", "ends", "indices", "rows", "scored",
    )  # fmt: skip

    def __init__(
        self, model: Model, scheduler: Scheduler[Sequence], rows: list[Row[Sequence]]
    ) -> None:
        self._model = model
        self.rows = rows
        self.addresses: list[int] = []
        self.scored: list[Scored] = []
        self.complete: list[Sequence] = []
        self.indices: list[int] = []
        self.ends: dict[int, int] = {}
        batch = model.batch
        batch.clear()
        rows = sorted(rows, key=lambda row: row.sequence.slot)
        room = batch.capacity - sum(row.count for row in rows)
        streams = [row for row in rows if row.count == 1 and row.completes]
        self.bridges: list[Bridge] = scheduler.bridges(streams, room)
        if len(streams) == len(rows):  # no prompt is read in most steps
            self._add_streams(streams)
        elif _adjacent(streams, self.bridges):
            self._add_rows([row for row in rows if row.count > 1 or not row.completes], [])
            if streams:
                self._add_streams(streams)
        else:  # perhaps a prompt is between them: then with it
            self.bridges = scheduler.bridges(rows, room)
            self._add_rows(rows, self.bridges)

    def decode(self) -> None:
        """Compute the batch, and find where its logits are.

        Raises:
            DecodeError: llama.cpp failed.
        """
        self._model.decode()
        self.addresses = [self._model.logits(index) for index in self.indices]
        self.scored = [
            Scored(self._model, row, self.ends[row.sequence.slot])
            for row in self.rows
            if row.sequence.scored < row.sequence.n_prompt
        ]

    def _add_streams(self, streams: list[Row[Sequence]]) -> None:
        """Add rows of one token each, with those of the slots between them, in one go."""
        single = [
            (s.slot, s.position(row.start), int(s.tokens[row.start]), True)
            for row, s in ((row, row.sequence) for row in streams)
        ]
        for slot, position in self.bridges:
            self._model.cut(slot, position)
            single.append((slot, position, 0, False))
        single.sort()
        slots, positions, tokens, want = map(list, zip(*single, strict=True))
        indices = self._model.batch.add_each(slots, positions, tokens, want)
        self.ends.update(zip(slots, indices, strict=True))
        self.complete.extend(row.sequence for row in streams)
        self.indices.extend(index for index, wanted in zip(indices, want, strict=True) if wanted)

    def _add_rows(self, rows: list[Row[Sequence]], bridges: list[Bridge]) -> None:
        batch = self._model.batch
        waiting = iter([*bridges, (self._model.n_parallel, 0)])
        gap, position = next(waiting)
        for row in rows:
            sequence = row.sequence
            while gap < sequence.slot:
                self._model.cut(gap, position)
                batch.add(gap, position, _ANY_TOKEN, 0)
                gap, position = next(waiting)
            tokens = sequence.tokens[row.start : row.start + row.count]
            start = sequence.position(row.start)
            index = batch.add(sequence.slot, start, tokens, row.n_logits)
            self.ends[sequence.slot] = index
            if row.completes:
                self.complete.append(sequence)
                self.indices.append(index)


def _adjacent(rows: list[Row[Sequence]], bridges: list[Bridge]) -> bool:
    """Whether rows and bridges fill their slots without a gap."""
    slots = [row.sequence.slot for row in rows] + [slot for slot, _ in bridges]
    return not slots or max(slots) - min(slots) == len(slots) - 1
