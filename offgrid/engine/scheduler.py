"""Decides what the next decode call computes. Pure: no llama.cpp, no clock, no threads.

Every running sequence that only waits for its next token gets it in every step. What is left of
the step's tokens goes to prefill, oldest request first, in chunks, so that a long prompt delays
the streams beside it by a bounded amount. Slots are given first come, first served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Schedulable(Protocol):
    """What the scheduler sees of a sequence."""

    request_id: int
    slot: int
    """Sequence id in llama.cpp's memory, or -1 while it waits."""
    computed: int
    """Tokens whose keys and values are in the slot."""

    def __len__(self) -> int:
        """Tokens of prompt and answer so far."""


S = TypeVar("S", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """A run of one sequence's tokens in a batch: ``count`` tokens from index ``start``."""

    sequence: S
    start: int
    count: int

    @property
    def completes(self) -> bool:
        """Whether the sequence's last token is in this row, so that logits are wanted."""
        return self.start + self.count == len(self.sequence)


class Scheduler(Generic[S]):
    """Slots, the queue for them, and the plan of each step.

    Args:
        n_slots: sequences that can run at once.
        step_tokens: most tokens in one decode call; at least ``n_slots``.
        prefill_tokens: most prefill tokens in a step in which other sequences decode.
    """

    def __init__(self, n_slots: int, step_tokens: int, prefill_tokens: int) -> None:
        if n_slots < 1 or step_tokens < n_slots or prefill_tokens < 1:
            raise ValueError("need n_slots >= 1, step_tokens >= n_slots, prefill_tokens >= 1")
        self.step_tokens = step_tokens
        self.prefill_tokens = prefill_tokens
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self._free = list(range(n_slots - 1, -1, -1))

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do: sequences that run, or that wait for a slot
        which the last step gave back."""
        return bool(self.running or self.waiting)

    def submit(self, sequences: Iterable[S]) -> None:
        """Append sequences to the queue."""
        self.waiting.extend(sequences)

    def admit(self) -> list[S]:
        """Give free slots to waiting sequences; return those that just got one."""
        admitted = []
        while self._free and self.waiting:
            sequence = self.waiting.popleft()
            sequence.slot = self._free.pop()
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> list[Row[S]]:
        """Return the rows of the next decode call; empty when nothing runs.

        The sum of ``count`` is at most ``step_tokens``, and every sequence has at most one row.
        """
        decoding = [s for s in self.running if len(s) - s.computed == 1]
        prefilling = [s for s in self.running if len(s) - s.computed > 1]
        rows = [Row(s, s.computed, 1) for s in decoding]
        budget = self.step_tokens - len(rows)
        if rows:
            budget = min(budget, self.prefill_tokens)
        for sequence in prefilling:
            if budget == 0:
                break
            count = min(len(sequence) - sequence.computed, budget)
            rows.append(Row(sequence, sequence.computed, count))
            budget -= count
        return rows

    def release(self, sequence: S) -> int:
        """Take a running sequence out; return the slot that is free now."""
        self.running.remove(sequence)
        slot, sequence.slot = sequence.slot, -1
        self._free.append(slot)
        return slot

    def cancel(self, request_id: int) -> list[int]:
        """Take every sequence of a request out; return the slots that are free now."""
        self.waiting = deque(s for s in self.waiting if s.request_id != request_id)
        mine = [s for s in self.running if s.request_id == request_id]
        return [self.release(sequence) for sequence in mine]
