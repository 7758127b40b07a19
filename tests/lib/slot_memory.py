"""What llama.cpp's slots hold, with lists in place of keys and values: the naive reference.

There are three kinds of memory. Keys and values can be cut anywhere (``CUT``). A recurrent state is
that of all tokens (``STATE``): a slot is continued at its end, or where a copy of the state was
made. A sliding window (``WINDOW``) forgets: a slot is continued where the window before is still
held, or where a copy of the window was made.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from offgrid.engine.worker.checkpoints import Checkpoints
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scheduler.slots import Placement
from offgrid.engine.worker.sequence import Status


class Kind(Enum):
    CUT = "cut"
    STATE = "state"
    WINDOW = "window"


class SlotMemory:
    """The tokens that each slot holds. Its methods fail as those of the model do.

    Args:
        n_slots: number of slots.
        kind: of memory.
        window: tokens of the sliding window.
        room: tokens that a slot holds in addition to the window.
    """

    def __init__(
        self, n_slots: int, kind: Kind = Kind.CUT, *, window: int = 8, room: int = 12
    ) -> None:
        self.kind = kind
        self.window = window if kind is Kind.WINDOW else 0
        self.room = room
        self.tokens: list[list[int]] = [[] for _ in range(n_slots)]
        self.begins = [0] * n_slots
        """Slot -> the first token that its window holds."""
        self.refuses = False
        """Whether no cut succeeds any more."""

    def checkpoints(self, budget: int, interval: int, spacing: int) -> Checkpoints:
        """Return checkpoints of this memory; a token takes one byte."""
        return Checkpoints(
            budget, window=self.window, oldest=self.oldest, interval=interval, spacing=spacing
        )

    def oldest(self, slot: int) -> int:
        return self.begins[slot] if self.tokens[slot] else -1

    def compute(self, slot: int, start: int, tokens: list[int]) -> None:
        assert start == len(self.tokens[slot])
        self.tokens[slot] += tokens
        if self.kind is Kind.WINDOW:
            first = len(self.tokens[slot]) - self.window - self.room
            self.begins[slot] = max(self.begins[slot], first)

    def forget(self, slot: int) -> None:
        self.tokens[slot], self.begins[slot] = [], 0

    def copy(self, source: int, target: int) -> None:
        self.tokens[target] = list(self.tokens[source])
        self.begins[target] = self.begins[source]

    def cut(self, slot: int, keep: int) -> bool:
        if self.kind is Kind.STATE and keep != len(self.tokens[slot]):
            return False
        assert keep <= len(self.tokens[slot])
        del self.tokens[slot][keep:]
        if self.refuses:
            return False
        if keep == 0:
            self.begins[slot] = 0
        return self.kind is not Kind.WINDOW or self.begins[slot] <= max(0, keep - self.window + 1)

    def save(self, slot: int) -> tuple[int, ...]:
        """Copy a state, which is all tokens here, or a window."""
        tokens = self.tokens[slot]
        return tuple(tokens[-self.window :] if self.kind is Kind.WINDOW else tokens)

    def restore(self, slot: int, state: tuple[int, ...], keep: int) -> bool:
        if self.kind is Kind.STATE:
            self.tokens[slot] = list(state)
        else:
            self.begins[slot] = keep - len(state)
            assert self.tokens[slot][self.begins[slot] : keep] == list(state)
        return self.cut(slot, keep)

    # --- what the engine does -----------------------------------------------------------------

    def carry_out(self, scheduler: Scheduler[Any], placements: list[Placement[Any]]) -> None:
        """Prepare the slots of admitted sequences.

        A placement may only fail if an earlier one has changed its source, or the memory refuses.
        """
        changed: set[int] = set()
        for placement in placements:
            sequence, slot = placement.sequence, placement.sequence.slot
            if placement.rescue is not None:
                self.copy(slot, placement.rescue)
                changed.add(placement.rescue)
            if sequence.status is Status.PARKED:
                continue
            if not self._fill(placement):
                assert placement.source in changed or self.refuses
                self.forget(slot)
                if scheduler.can_cut:
                    scheduler.cannot_cut(sequence)
                else:
                    scheduler.start_over(sequence)
            changed.add(slot)
            assert self.tokens[slot] == sequence.tokens[: sequence.computed].tolist()

    def _fill(self, placement: Placement[Any]) -> bool:
        slot, source = placement.sequence.slot, placement.source
        if source is None:
            self.forget(slot)
            return True
        if source != slot:
            self.copy(source, slot)
        if len(self.tokens[slot]) < placement.keep:
            return False
        if placement.checkpoint is None:
            return self.cut(slot, placement.keep)
        state: Any = placement.checkpoint.state
        return self.restore(slot, state, placement.keep)

    def take_checkpoints(self, scheduler: Scheduler[Any]) -> None:
        """Copy what is due after a step."""
        for sequence in scheduler.due():
            tokens = sequence.tokens[: sequence.computed]
            assert self.tokens[sequence.slot] == tokens.tolist()
            scheduler.checkpoints.add(sequence.slot, tokens, self.save(sequence.slot))
