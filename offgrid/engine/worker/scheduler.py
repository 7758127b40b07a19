"""Decides what the next decode call computes. Pure: no llama.cpp, no clock, no threads.

Every running sequence that only waits for its next token gets it in every step. What is left of
the step's tokens goes to prefill, oldest request first, in chunks, so that a long prompt delays
the streams beside it by a bounded amount. Slots are given first come, first served.

A sequence that gets a slot begins behind the longest prefix that some slot already holds: that of
a running sequence, or of one that has ended and whose slot nobody needed since. When a running
sequence is just computing a longer one, the newcomer waits for it instead of computing it again.

The next turn of a conversation takes the slot that the conversation is in. No computed prefix is
given up but for a sequence that needs a slot, and then the least recently used one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from offgrid.engine.worker.prefix import (
    MIN_COPY,
    NO_MATCH,
    IdleSlots,
    Match,
    Tokens,
    common_prefix,
    longest_match,
)
from offgrid.engine.worker.sequence import Status

MAX_GAP = 2
"""Slots between two spans that are bridged; see :meth:`Scheduler.bridges`."""
_COPY_SHARE = 128
"""A copy takes the time of a slot's context, whatever is in it. Where a prefix is shorter than this
part (1/128) of the context it may be computed sooner than copied."""
_MAX_MOVED_CTX = 16384
"""Tokens. Slots of a longer context are not moved to be neighbours: that takes too long."""


class Schedulable(Protocol):
    """What the scheduler sees of a sequence."""

    request_id: int
    status: Status
    """Set by the scheduler alone."""
    slot: int
    """Sequence id in llama.cpp's memory, or -1 while it waits and after its end."""
    computed: int
    """Tokens whose keys and values are in the slot."""
    cached: int
    """Tokens of these that were there already: what sharing saved."""
    reuse: bool
    """Whether it may begin behind another's prefix, and leave its own behind."""
    tokens: Tokens
    """Ids of prompt and answer; the first ``len()`` of them count."""
    n_prompt: int
    """How many of them are the prompt."""

    @property
    def readable(self) -> int:
        """Tokens up to which it can be computed by spans: all, or those before the next image."""

    def whole(self, length: int) -> int:
        """The largest number up to ``length`` of first tokens that ends inside no image."""

    @property
    def wanted_from(self) -> int:
        """Index of the first token whose logits are still wanted: that of the last one, or an
        earlier one while the prompt gets logprobs. From there on nothing is taken from others."""

    def __len__(self) -> int:
        """Tokens of prompt and answer so far."""


S = TypeVar("S", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class BatchSpan(Generic[S]):
    """A run of one sequence's tokens in a batch: ``count`` tokens from index ``start``."""

    sequence: S
    start: int
    count: int

    @property
    def n_logits(self) -> int:
        """How many of the span's last tokens need their logits."""
        end = self.start + self.count
        return max(0, end - max(self.start, self.sequence.wanted_from))

    @property
    def completes(self) -> bool:
        """Whether the sequence's last token is in this span, so that logits are wanted."""
        return self.start + self.count == len(self.sequence)


@dataclass(frozen=True, slots=True)
class Placement(Generic[S]):
    """How a sequence begins in its slot: behind ``keep`` tokens that ``source`` holds.

    ``source`` is the slot itself (cut what follows), another one (copy it, then cut), or None
    (begin with an empty slot). ``rescue`` is where to copy what the slot held, before all else.
    ``cut`` says that what follows is really to be cut: there is none where only whole sequences are
    shared.
    """

    sequence: S
    source: int | None
    keep: int
    rescue: int | None = None
    cut: bool = False


class Scheduler(Generic[S]):
    """Slots, the queue for them, and the plan of each step.

    Args:
        n_slots: sequences that can run at once.
        step_tokens: most tokens in one decode call; at least ``n_slots``.
        n_ctx: tokens that a slot has room for.
        scored_tokens: most tokens of prompts with logprobs in one decode call: each of them needs a
            row of logits, which is memory.
        can_cut: whether the model can drop the end of a sequence (recurrent ones cannot). Where
            not, only whole sequences are shared. :meth:`cannot_cut` takes it back.

    Attributes:
        min_copy: tokens that a prefix must have to be copied.
    """

    def __init__(
        self,
        n_slots: int,
        step_tokens: int,
        n_ctx: int = 2048,
        scored_tokens: int = 512,
        can_cut: bool = True,
    ) -> None:
        if n_slots < 1 or step_tokens < n_slots or scored_tokens < 1:
            raise ValueError("need n_slots >= 1, step_tokens >= n_slots and scored_tokens >= 1")
        self.scored_tokens = scored_tokens
        self.step_tokens = step_tokens
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self.idle = IdleSlots(n_slots)
        self.can_cut = can_cut
        self.n_ctx = n_ctx
        self.min_copy = max(MIN_COPY, n_ctx // _COPY_SHARE)
        self._parked: dict[int, tuple[S, int]] = {}
        """Slot -> the sequence whose prefill the one in the slot waits for, and how far."""
        self._held_back = False
        """Whether room was taken from a sequence and none has been given back since."""

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do: sequences that run, or that wait for a slot
        which the last step gave back."""
        return bool(self.running or self.waiting)

    def submit(self, sequences: Iterable[S]) -> None:
        """Append sequences to the queue."""
        self.waiting.extend(sequences)

    # --- slots --------------------------------------------------------------------------------

    def admit(self) -> list[Placement[S]]:
        """Give slots to waiting sequences, and a beginning to those whose wait is over.

        Returns:
            What the engine has to do, in this order. Those that first wait for another's prefill
            come twice: when they get their slot and are parked, and when they begin.
        """
        parked = [s for s in self.running if s.status is Status.PARKED] if self._parked else []
        placements = [p for p in map(self._unpark, parked) if p is not None]
        if self._held_back and self.running:
            return placements  # who had to give way would only have to do so again
        count = min(len(self.waiting), len(self.idle))
        newcomers = [self.waiting.popleft() for _ in range(count)]
        # All sequences that get a slot now are looked at first, so that none of them gives up a
        # prefix with which another one goes on.
        own = self._own_slots(newcomers)
        self.idle.reserve(own.values())
        for place, sequence in enumerate(newcomers):
            placements.append(self._place(sequence, own.get(place)))
            self.running.append(sequence)
        return placements

    def _own_slots(self, sequences: list[S]) -> dict[int, int]:
        """Find the conversations that sequences go on with: place in the list -> idle slot.

        Where several go on with the same slot, the one that shares most gets it; of equals the one
        that came first. The others may still go on with another slot.
        """
        found = []
        for place, sequence in enumerate(sequences):
            tokens = sequence.tokens[: len(sequence)]
            for slot, held in self.idle if sequence.reuse else ():
                shared = common_prefix(held, tokens)
                if self.idle.goes_on(slot, shared):
                    found.append((-shared, place, slot))
        own: dict[int, int] = {}
        for _, place, slot in sorted(found):
            if place not in own and slot not in own.values():
                own[place] = slot
        return own

    def _place(self, sequence: S, own: int | None) -> Placement[S]:
        """Choose a slot and a beginning, or the slot alone when another's prefill is waited for."""
        match = self._best_match(sequence)
        if own is not None:
            self.idle.release(own)
            held = [(own, self.idle.tokens(own))]
            prompt = sequence.tokens[: sequence.wanted_from]
            there = longest_match(held, prompt, sequence.whole, self.can_cut).length
            if match.length < there + self.min_copy:  # not worth a copy from elsewhere
                match = Match(own, there)
        promised = self._promised(sequence, match.length)
        if promised is not None:
            match = NO_MATCH
        slot, rescue = self._newcomers_slot(match) if own is None else self._own_slot(own, match)
        self.idle.take(slot)
        sequence.slot = slot
        if promised is None:
            return self._begin(sequence, match, rescue)
        self._parked[slot] = promised
        sequence.status = Status.PARKED
        return Placement(sequence, None, 0, rescue)

    def _newcomers_slot(self, match: Match) -> tuple[int, int | None]:
        """Choose the slot to give up, and where to copy what is in it if another one is lost."""
        slot = self.idle.oldest()
        assert slot is not None
        if slot == match.slot and match.length >= self.min_copy:
            return slot, None  # it begins behind what is there
        near = self._near(slot)
        if near is None or self.idle.spare(near):
            return slot if near is None else near, None
        # Only what the slot to give up holds is lost, wherever the newcomer runs.
        self.idle.move(near, slot)
        return near, slot

    def _own_slot(self, own: int, match: Match) -> tuple[int, int | None]:
        """Return the slot of a conversation that goes on, or one beside others.

        It moves only if nothing is lost: to a spare slot, or to a slot whose own tokens can be
        copied to a spare one. To compute a prefix again costs more than most answers save by
        standing beside others.
        """
        near = self._near(own) if match.length >= self.min_copy else None
        if near is None:
            return own, None
        rescue = None
        if not self.idle.spare(near):
            rescue = self.idle.empty(but=(own,))
            if rescue is None:
                return own, None
            self.idle.move(near, rescue)
        self.forget(own)  # it is copied, and then not needed twice
        return near, rescue

    def _near(self, slot: int) -> int | None:
        """Return an idle slot beside those in use for one that is too far from them to be computed
        in the same call, None where there is none or a copy takes too long."""
        if self.n_ctx > _MAX_MOVED_CTX or self.idle.distance(slot) <= 1 + MAX_GAP // 2:
            return None
        return self.idle.neighbour()

    def _begin(self, sequence: S, match: Match, rescue: int | None = None) -> Placement[S]:
        worthwhile = match.slot == sequence.slot or match.length >= self.min_copy
        keep = match.length if worthwhile else 0
        self._start(sequence, keep)
        return Placement(sequence, match.slot if keep else None, keep, rescue, self.can_cut)

    @staticmethod
    def _start(sequence: S, keep: int) -> None:
        """Let a sequence begin after tokens that are in its slot already."""
        sequence.computed = sequence.cached = keep
        sequence.status = Status.DECODING if keep >= len(sequence) - 1 else Status.PREFILL

    def cannot_cut(self, sequence: S) -> None:
        """The model could not cut the slot that a sequence was to begin in: it begins with an empty
        one, and only whole sequences are shared from now on. Nothing is lost, only computed again.
        """
        self.can_cut = False
        self._start(sequence, 0)

    def _best_match(self, sequence: S) -> Match:
        shared = (
            (other.slot, other.tokens[: other.computed])
            for other in self.running
            if _may_share(sequence, other) and other.status is not Status.PARKED
        )
        idle = self.idle if sequence.reuse else ()
        # What logits are wanted of is always computed: the last token at least.
        prompt = sequence.tokens[: sequence.wanted_from]
        return longest_match(itertools.chain(idle, shared), prompt, sequence.whole, self.can_cut)

    def _promised(self, sequence: S, length: int) -> tuple[S, int] | None:
        """The running sequence whose prefill will soon hold more of this prompt than ``length``,
        and how much."""
        best, source = length + self.min_copy - 1, None
        if not self.can_cut:
            return None
        for other in self.running:
            if not _may_share(sequence, other) or len(other) - other.computed <= 1:
                continue
            shared = sequence.whole(
                common_prefix(other.tokens[: len(other)], sequence.tokens[: sequence.wanted_from])
            )
            if shared > max(best, other.computed):
                best, source = shared, other
        return None if source is None else (source, best)

    def _unpark(self, sequence: S) -> Placement[S] | None:
        """A beginning for a parked sequence, if what it waits for is there, or never will be."""
        source, promised = self._parked[sequence.slot]
        # It has left its slot if it has ended, or is preempted and waits for another one.
        left = source.status in (Status.FINISHED, Status.WAITING)
        if not left and source.computed < promised:
            return None
        del self._parked[sequence.slot]
        return self._begin(sequence, self._best_match(sequence))

    def release(self, sequence: S) -> None:
        """Take a running sequence out. What it computed stays in its slot until that is needed."""
        self._leave(sequence)
        sequence.status = Status.FINISHED

    def _leave(self, sequence: S) -> None:
        self.running.remove(sequence)
        self._held_back = False
        slot, sequence.slot = sequence.slot, -1
        self._parked.pop(slot, None)
        kept = sequence.computed if sequence.reuse else 0
        self.idle.put(slot, sequence.tokens[:kept].copy(), sequence.n_prompt)
        if self.can_cut:  # else only a whole sequence can be shared, so each length counts
            self.idle.drop_repeated(slot)

    def forget(self, slot: int) -> None:
        """What an idle slot holds is lost."""
        if slot in self.idle:
            self.idle.put(slot, self.idle.take(slot)[:0])

    def preempt(self, sequence: S) -> None:
        """Take the room of a running sequence away; it is computed again when another has ended."""
        sequence.computed = 0
        self._leave(sequence)
        sequence.status = Status.WAITING
        self._held_back = True
        self.waiting.appendleft(sequence)

    def cancel(self, request_id: int) -> None:
        """Take every sequence of a request out."""
        for sequence in self.waiting:
            if sequence.request_id == request_id:
                sequence.status = Status.FINISHED
        self.waiting = deque(s for s in self.waiting if s.status is Status.WAITING)
        for sequence in [s for s in self.running if s.request_id == request_id]:
            self.release(sequence)

    def counts(self) -> tuple[int, int]:
        """Return how many running sequences decode, and how many have tokens to prefill."""
        decoding = Status.DECODING
        return sum([s.status is decoding for s in self.running]), len(self._prefilling())

    def _prefilling(self) -> list[S]:
        """Sequences in prefill, but for those whose next part is an image."""
        prefill = Status.PREFILL
        return [s for s in self.running if s.status is prefill and s.readable > s.computed]

    # --- the step -----------------------------------------------------------------------------

    def plan(self, *, prefill: int, burst: int = 0) -> list[BatchSpan[S]]:
        """Return the spans of the next decode call; empty when nothing runs.

        Args:
            prefill: most tokens of prefill beside sequences that decode, at least 1.
            burst: tokens that the rest of the oldest prompt may have to be computed whole instead.

        Returns:
            At most one span of every sequence. The sum of ``count`` is at most ``step_tokens``.
        """
        decoding = Status.DECODING
        spans = [BatchSpan(s, s.computed, 1) for s in self.running if s.status is decoding]
        prefilling = self._prefilling()
        budget = self.step_tokens - len(spans)
        if spans and prefilling:
            left = prefilling[0].readable - prefilling[0].computed
            least = left if left <= burst else 0
            budget = min(budget, max(prefill, least))
        logits = self.scored_tokens
        for sequence in prefilling:
            count = min(sequence.readable - sequence.computed, budget)
            if sequence.wanted_from < len(sequence) - 1:
                count = min(count, logits)
                logits -= count
            if count:
                spans.append(BatchSpan(sequence, sequence.computed, count))
                budget -= count
        return spans

    def record(self, spans: Iterable[BatchSpan[S]]) -> None:
        """Note that spans of the plan are computed; to be told before their tokens are sampled."""
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

    def await_mask(self, sequence: S) -> None:
        """A sequence whose logits are there gets no token yet: the mask of its grammar is late."""
        sequence.status = Status.AWAITING_MASK

    def resume(self, sequence: S) -> None:
        """The mask that a sequence waits for is there."""
        sequence.status = Status.DECODING

    def bridges(self, spans: list[BatchSpan[S]], room: int) -> list[tuple[int, int]]:
        """Return idle slots to compute a token in for nothing, so that spans stay together.

        llama.cpp computes together only what stands in neighbouring slots. A token more costs less
        than a second call, if the gap is small (``docs/engine.md`` has figures).

        Args:
            spans: of the step.
            room: tokens that the batch still has room for.

        Returns:
            Slots, and the position of the token: behind what the slot holds. It has to be cut off
            again after the step.
        """
        if len(spans) < 2 or not self.can_cut:
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


def _may_share(a: Schedulable, b: Schedulable) -> bool:
    """Whether one may begin behind the other's tokens: choices of one request always may."""
    return (a.reuse and b.reuse) or a.request_id == b.request_id
