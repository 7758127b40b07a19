"""Decides what the next decode call computes. Pure: no llama.cpp, no clock, no threads.

Each step decodes one token of every sequence that generates. The rest of the step's tokens goes to
prefill in chunks, so that a long prompt delays the other streams by a bounded amount: callers take
turns at it, and of the prompts of a caller, the oldest is computed first.
:mod:`offgrid.engine.worker.scheduler.queue` decides which sequence gets the next slot;
:mod:`offgrid.engine.worker.scheduler.slots` chooses which slot, and the prefix after which the
sequence begins.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from offgrid.engine.worker.checkpoints import Checkpoint, Checkpoints
from offgrid.engine.worker.scheduler.queue import Waiting
from offgrid.engine.worker.scheduler.slots import MAX_GAP, Placement, SavedPrefixes, Slots
from offgrid.engine.worker.sequence import Status
from offgrid.engine.worker.spans import BatchSpan, S


class Scheduler(Slots[S]):
    """The slots, the queue for them, and the plan of each step.

    Args:
        n_slots: sequences that can run at once.
        step_tokens: most tokens in one decode call; at least ``n_slots``.
        n_ctx: tokens that a slot can hold.
        scored_tokens: most tokens of prompts with logprobs in one decode call. It bounds memory:
            each of them needs a row of logits.
        can_cut, saved, checkpoints: see :class:`Slots`.
    """

    def __init__(
        self,
        n_slots: int,
        step_tokens: int,
        n_ctx: int = 2048,
        scored_tokens: int = 512,
        can_cut: bool = True,
        saved: SavedPrefixes | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        if n_slots < 1 or step_tokens < n_slots or scored_tokens < 1:
            raise ValueError("need n_slots >= 1, step_tokens >= n_slots and scored_tokens >= 1")
        super().__init__(n_slots, n_ctx, can_cut, saved, checkpoints)
        self.scored_tokens = scored_tokens
        self.step_tokens = step_tokens
        self.waiting: Waiting[S] = Waiting()
        self.preempted = 0
        """How often a slot was taken away from a running sequence."""
        self._prefilled: dict[str, int] = {}
        """Caller with a prompt to compute -> number of its latest turn at prefill."""
        self._turns = 0
        self._held_back = False
        """Set by a preemption, cleared when a sequence leaves its slot."""

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do: for running sequences, or for waiting ones if
        the last step released a slot."""
        return bool(self.running or self.waiting)

    def submit(self, sequences: Iterable[S]) -> None:
        """Append sequences to the queue."""
        for sequence in sequences:
            self.waiting.append(sequence)

    # --- slots --------------------------------------------------------------------------------

    def admit(self) -> list[Placement[S]]:
        """Give slots to waiting sequences, and let parked ones begin whose wait is over.

        Returns:
            Placements for the engine to carry out in this order. A sequence that is parked gets
            two: one when it gets its slot, and one when it begins.
        """
        self.withdraw(len(self.waiting) - len(self.idle))
        placements = self._unpark_all()
        if self._held_back and self.running:
            return placements  # the preempted sequence would only be preempted again
        count = min(len(self.waiting), len(self.idle))
        newcomers: list[S] = []
        for _ in range(count):
            newcomers.append(self.waiting.take(itertools.chain(self.running, newcomers)))
        return placements + self._place_all(newcomers)

    def lendable(self) -> int | None:
        """Return a slot for a further sequence of a running request, if no other waits for one."""
        return None if self.waiting else super().lendable()

    def withdraw(self, count: int) -> bool:
        """Take up to ``count`` slots from dispensable sequences, the youngest first; return whether
        there were any."""
        found = False
        for sequence in reversed(self.running) if count > 0 else ():
            if count > 0 and sequence.dispensable:
                sequence.stop()
                self.release(sequence)
                found, count = True, count - 1
        return found

    def release(self, sequence: S) -> None:
        """End a running sequence. Its computed tokens stay in the slot until they are evicted."""
        self._leave(sequence)
        sequence.status = Status.FINISHED

    def _leave(self, sequence: S) -> None:
        super()._leave(sequence)
        self._held_back = False

    def preempt(self, sequence: S) -> None:
        """Take the slot of a running sequence away; it is computed again after another has left
        its slot."""
        sequence.computed = 0
        self.preempted += 1
        self._leave(sequence)
        sequence.status = Status.WAITING
        self._held_back = True
        self.waiting.put_back(sequence)

    def to_preempt(self) -> S | None:
        """Return the sequence to preempt if memory is short: the youngest of the caller that has
        the most slots. None if fewer than two run: the oldest always goes on."""
        if len(self.running) < 2:
            return None
        slots = Counter(sequence.owner for sequence in self.running)
        most = max(slots.values())
        return next(s for s in reversed(self.running) if slots[s.owner] == most)

    def cancel(self, request_id: int, choice: int | None = None) -> list[S]:
        """End every sequence of a request, or only that of one choice; return those ended."""
        ended = [
            sequence
            for sequence in (*self.waiting, *self.running)
            if sequence.request_id == request_id and (choice is None or sequence.choice == choice)
        ]
        for sequence in ended:
            if sequence.status is Status.WAITING:
                sequence.status = Status.FINISHED
            else:
                self.release(sequence)
        self.waiting.remove(ended)
        return ended

    def counts(self) -> tuple[int, int]:
        """Return how many running sequences decode, and how many have tokens to prefill."""
        decoding = Status.DECODING
        return sum([s.status is decoding for s in self.running]), len(self._prefilling())

    def _prefilling(self) -> list[S]:
        """Return the sequences in prefill whose next part is not an image."""
        prefill = Status.PREFILL
        return [s for s in self.running if s.status is prefill and s.readable > s.computed]

    def _in_turn(self, prefilling: list[S]) -> list[S]:
        """Put sequences in prefill in the order in which they get tokens of this step: the oldest
        one of each caller, then the second oldest of each. The caller comes first whose last turn
        was longest ago."""
        by_caller: dict[str, list[S]] = {}
        for sequence in prefilling:
            by_caller.setdefault(sequence.owner, []).append(sequence)
        self._prefilled = {owner: self._prefilled.get(owner, -1) for owner in by_caller}
        callers = sorted(by_caller, key=self._prefilled.__getitem__)
        if callers:
            self._turns += 1
            self._prefilled[callers[0]] = self._turns
        rounds = itertools.zip_longest(*(by_caller[owner] for owner in callers))
        return [sequence for one in rounds for sequence in one if sequence is not None]

    # --- the step -----------------------------------------------------------------------------

    def plan(self, *, prefill: int, burst: int = 0) -> list[BatchSpan[S]]:
        """Return the spans of the next decode call; empty when nothing runs.

        Args:
            prefill: most tokens of prefill beside sequences that decode, at least 1.
            burst: if the rest of the prompt whose turn it is has at most this many tokens, all of
                it is prefilled, even if that is more than ``prefill``.

        Returns:
            At most one span of every sequence. The sum of ``count`` is at most ``step_tokens``.
        """
        decoding = Status.DECODING
        spans = [BatchSpan(s, s.computed, 1) for s in self.running if s.status is decoding]
        prefilling = self._in_turn(self._prefilling())
        budget = self.step_tokens - len(spans)
        if spans and prefilling:
            left = prefilling[0].readable - prefilling[0].computed
            least = left if left <= burst else 0
            budget = min(budget, max(prefill, least))
        logits = self.scored_tokens
        for sequence in prefilling:
            count = min(sequence.readable - sequence.computed, budget)
            if not self.can_cut:
                count = min(count, self._stop(sequence) - sequence.computed)
            if sequence.wanted_from < len(sequence) - 1:
                before = max(0, sequence.wanted_from - sequence.computed)  # they need no logits
                count = min(count, before + logits)
                logits -= max(0, count - before)
            if count:
                spans.append(BatchSpan(sequence, sequence.computed, count))
                budget -= count
        return spans

    def _stop(self, sequence: S) -> int:
        """Return where the next span of a prompt must end if its model cannot cut: where a
        checkpoint is taken, or where a parked sequence begins."""
        stop = self.checkpoints.next_stop(sequence)
        stops = [len(sequence) if stop is None else stop, *self._awaited(sequence)]
        return min(stop for stop in stops if stop > sequence.computed)

    def due(self) -> list[S]:
        """Return the running sequences of which a checkpoint is to be taken after this step."""
        if self.can_cut:
            return []
        waiting = (Status.PARKED, Status.WAITING)
        return [
            sequence
            for sequence in self.running
            if sequence.reuse and sequence.status not in waiting and self.checkpoints.due(sequence)
        ]

    def record(self, spans: Iterable[BatchSpan[S]]) -> None:
        """Note that spans of the plan are computed. Call it before their tokens are sampled."""
        prefill = Status.PREFILL
        for span in spans:
            sequence = span.sequence
            sequence.computed += span.count
            if sequence.status is prefill and sequence.computed >= len(sequence) - 1:
                sequence.status = Status.DECODING

    def record_image(self, sequence: S, end: int) -> None:
        """Note that a sequence in prefill is computed up to the end of an image."""
        sequence.computed = end
        if end >= len(sequence) - 1:
            sequence.status = Status.DECODING

    def branch(self, sequence: S) -> None:
        """Note that a sequence whose tokens were computed has got others after a prefix of them."""
        left = len(sequence) - sequence.computed
        sequence.status = Status.PREFILL if left > 1 else Status.DECODING

    def await_mask(self, sequence: S) -> None:
        """Note that a sequence's logits are computed, but the mask of its grammar is late."""
        sequence.status = Status.AWAITING_MASK

    def resume(self, sequence: S) -> None:
        """Note that the mask for which a sequence waits is ready."""
        sequence.status = Status.DECODING

    def usable(self, sequence: S, length: int) -> tuple[int, Checkpoint | None]:
        """Return after how many tokens, up to ``length``, a rewound sequence can go on in its slot,
        and the checkpoint that it needs for that."""
        return self._usable(sequence.slot, sequence.tokens[: sequence.computed], length)

    def rewind(self, sequence: S, length: int) -> None:
        """Note that tokens were taken away from a sequence, and that its slot holds ``length``."""
        sequence.computed = length
        sequence.status = Status.DECODING if length >= len(sequence) - 1 else Status.PREFILL

    def bridges(self, spans: list[BatchSpan[S]], room: int) -> list[tuple[int, int]]:
        """Return idle slots that get an unneeded token, so that spans are computed together.

        llama.cpp computes only neighbouring slots together. If the gap is small, an extra token
        costs less than a second call (``docs/engine.md`` has figures).

        Args:
            spans: of the step.
            room: tokens that the batch still has room for.

        Returns:
            Slots, each with the position of its token: after what the slot holds. The token must be
            cut off again after the step.
        """
        if len(spans) < 2 or not self.can_cut_tail:
            return []
        used = sorted(span.sequence.slot for span in spans)
        if used[-1] - used[0] == len(used) - 1:
            return []
        held = {slot: len(tokens) for slot, tokens in self.idle}
        held |= dict.fromkeys(self._parked, 0)
        found: list[tuple[int, int]] = []
        for low, high in itertools.pairwise(used):
            gap = range(low + 1, high)
            if not 0 < len(gap) <= min(MAX_GAP, room - len(found)):
                continue
            if all(held.get(slot, self.n_ctx) < self.n_ctx for slot in gap):
                found += ((slot, held[slot]) for slot in gap)
        return found
