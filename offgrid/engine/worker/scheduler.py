"""Decides what the next decode call computes. Pure: no llama.cpp, no clock, no threads.

Each step decodes one token of every sequence that generates. The rest of the step's tokens goes to
prefill, oldest request first, in chunks, so that a long prompt delays the other streams by a
bounded amount. Slots are given in order of arrival.

An admitted sequence begins after the longest prefix that some slot already holds: the slot of a
running sequence, or an idle slot that still holds a finished one. If the model cannot cut sequences
anywhere, it begins after a whole sequence or a checkpoint. A prefix of a few tokens is
computed again, so that an answer does not depend on requests that are hardly related to it. If a
running sequence is about to compute a longer prefix, the new sequence is parked until then instead
of computing it again. It is parked too while a saved prefix is fetched from memory or disk.

The next turn of a conversation takes the slot that holds the conversation. A computed prefix is
evicted only for a sequence that needs a slot, least recently used first.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from offgrid.engine.worker.checkpoints import Checkpoint, Checkpoints
from offgrid.engine.worker.prefix import (
    MIN_COPY,
    MIN_REUSE,
    IdleSlots,
    Match,
    TokenIds,
    common_prefix,
    longest_match,
)
from offgrid.engine.worker.sequence import Status

MAX_GAP = 2
"""Largest number of slots between two spans that is bridged; see :meth:`Scheduler.bridges`."""
_COPY_SHARE = 128
"""The time of a copy depends on the size of the context, not on what the slot holds. A prefix that
is shorter than this fraction (1/128) of the context may be faster to compute than to copy."""
_MAX_MOVED_CTX = 16384
"""Tokens. With a longer context, slots are not copied to become neighbours: it takes too long."""

Found = Match[Checkpoint]
_NOTHING: Found = Match(-1, 0)


class Schedulable(Protocol):
    """The part of a sequence that the scheduler uses."""

    request_id: int
    choice: int
    """Which of the request's choices it is."""
    status: Status
    """Set by the scheduler alone."""
    slot: int
    """Sequence id in llama.cpp's memory; -1 while the sequence waits and after its end."""
    computed: int
    """Tokens whose keys and values are in the slot."""
    cached: int
    """How many of these the slot held already, so that they were not computed again."""
    reuse: bool
    """Whether it may begin after the prefix of another sequence, and others after its prefix."""
    tokens: TokenIds
    """Ids of prompt and answer; only the first ``len()`` elements are valid."""
    n_prompt: int
    """How many of them are the prompt."""

    @property
    def readable(self) -> int:
        """End of the tokens that spans can compute now: the next image, or all tokens."""

    def before_image(self, length: int) -> int:
        """Return the largest prefix length up to ``length`` that does not end inside an image."""

    @property
    def wanted_from(self) -> int:
        """Index of the first token whose logits are still needed: the last token, or an earlier
        one while the prompt gets logprobs. No prefix of another sequence is used beyond it."""

    def __len__(self) -> int:
        """Tokens of prompt and answer so far."""


class Fetching(Protocol):
    """A saved prefix that is being fetched for a sequence (``cache.tiers.Fetch``)."""

    @property
    def length(self) -> int:
        """How many tokens of the prompt it holds."""

    @property
    def ready(self) -> bool:
        """Whether it has arrived, or is known to be lost."""

    @property
    def lost(self) -> bool:
        """Whether it is lost."""


class SavedPrefixes(Protocol):
    """What is saved outside of the slots (``cache.tiers.Tiers``)."""

    def find(
        self, prompt: TokenIds, before_image: Callable[[int], int], above: int
    ) -> Fetching | None:
        """Begin to fetch the longest saved prefix of a prompt, if it is worth it when ``above``
        tokens need not be computed anyway."""


S = TypeVar("S", bound=Schedulable)
Lost = tuple[int, TokenIds, int]
"""A slot whose content is about to be lost: slot, tokens, and how many of them are the prompt."""


@dataclass(frozen=True, slots=True)
class BatchSpan(Generic[S]):
    """Consecutive tokens of one sequence in a batch: ``count`` tokens from index ``start``, and
    after them the proposed tokens of a ``draft``."""

    sequence: S
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many tokens the span has in the batch."""
        return self.count + len(self.draft)

    @property
    def n_logits(self) -> int:
        """How many tokens at the end of the span need logits."""
        end = self.start + self.count
        return max(0, end - max(self.start, self.sequence.wanted_from)) + len(self.draft)

    @property
    def completes(self) -> bool:
        """Whether the span contains the sequence's last token, so that the next is sampled."""
        return self.start + self.count == len(self.sequence)


@dataclass(frozen=True, slots=True)
class Placement(Generic[S]):
    """How a sequence begins in its slot: after ``keep`` tokens that ``source`` holds.

    ``source`` is the slot itself (cut what follows), another one (copy it, then cut), or None
    (begin with an empty slot). With ``fetched``, the slot gets that saved prefix, and is cut after
    ``keep`` tokens. ``lost`` is what will be lost then, if it may be needed again. ``rescue`` is
    the slot to which the old content of the sequence's slot is copied first. ``checkpoint`` is
    copied back before what follows is cut.
    """

    sequence: S
    source: int | None
    keep: int
    rescue: int | None = None
    lost: Lost | None = None
    fetched: Fetching | None = None
    checkpoint: Checkpoint | None = None


class Scheduler(Generic[S]):
    """Slots, the queue for them, and the plan of each step.

    Args:
        n_slots: sequences that can run at once.
        step_tokens: most tokens in one decode call; at least ``n_slots``.
        n_ctx: tokens that a slot can hold.
        scored_tokens: most tokens of prompts with logprobs in one decode call. It bounds memory:
            each of them needs a row of logits.
        can_cut: whether the model can cut a sequence anywhere. :meth:`cannot_cut` sets it to false.
        saved: the prefixes that are saved in memory and on disk, or None.
        checkpoints: of a model that cannot: what can be used of its sequences besides whole ones.

    Attributes:
        min_copy: fewest tokens of a prefix that is copied.
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
        self.scored_tokens = scored_tokens
        self.step_tokens = step_tokens
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self.idle = IdleSlots(n_slots)
        self.can_cut = can_cut
        self._saved = saved
        self.checkpoints = checkpoints or Checkpoints(0)
        self.n_ctx = n_ctx
        self.min_copy = max(MIN_COPY, n_ctx // _COPY_SHARE)
        self._parked: dict[int, tuple[S, int] | Fetching] = {}
        """Slot of a parked sequence -> the sequence whose prefill it waits for, and how many tokens
        of that; or the saved prefix that it waits for."""
        self._held_back = False
        """Set by a preemption, cleared when a sequence leaves its slot."""

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do: for running sequences, or for waiting ones if
        the last step released a slot."""
        return bool(self.running or self.waiting)

    def submit(self, sequences: Iterable[S]) -> None:
        """Append sequences to the queue."""
        self.waiting.extend(sequences)

    # --- slots --------------------------------------------------------------------------------

    def admit(self) -> list[Placement[S]]:
        """Give slots to waiting sequences, and let parked ones begin whose wait is over.

        Returns:
            Placements for the engine to carry out in this order. A sequence that is parked gets
            two: one when it gets its slot, and one when it begins.
        """
        parked = [s for s in self.running if s.status is Status.PARKED] if self._parked else []
        placements = [p for p in map(self._unpark, parked) if p is not None]
        if self._held_back and self.running:
            return placements  # the preempted sequence would only be preempted again
        count = min(len(self.waiting), len(self.idle))
        newcomers = [self.waiting.popleft() for _ in range(count)]
        # Find the slots of continued conversations for all newcomers first, so that none of them
        # evicts the prefix of another one.
        own = self._own_slots(newcomers)
        self.idle.reserve(own.values())
        for place, sequence in enumerate(newcomers):
            placements.append(self._place(sequence, own.get(place)))
            self.running.append(sequence)
        return placements

    def _own_slots(self, sequences: list[S]) -> dict[int, int]:
        """Find the conversations that sequences continue: index in the list -> idle slot.

        If several sequences continue the same slot, the one that shares most tokens gets it; among
        equals, the first. The others may still continue another slot.
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
        """Choose a slot and the prefix after which the sequence begins, or park it if another
        sequence will compute a longer prefix."""
        match = self._best_match(sequence)
        if own is not None:
            self.idle.release(own)
            held = [(own, self.idle.tokens(own))]
            prompt = sequence.tokens[: sequence.wanted_from]
            there = longest_match(held, prompt, sequence.before_image, self._usable)
            there = there if there.length >= MIN_REUSE else _NOTHING
            if match.length < there.length + self.min_copy:  # not worth a copy from elsewhere
                match = Match(own, there.length, there.checkpoint)
        promised = self._promised(sequence, match.length)
        fetching = self._fetch(sequence, match.length if promised is None else promised[1])
        awaited = promised if fetching is None else fetching
        if awaited is not None:
            match = _NOTHING
        before: dict[int, Lost] = {
            one: (one, tokens, self.idle.prompt_length(one)) for one, tokens in self.idle
        }
        if own is not None:
            slot, rescue = self._own_slot(own, match)
        else:
            slot, rescue = self._newcomers_slot(match, move=fetching is None)
        lost = before[slot if rescue is None else rescue] if own is None else None
        self.idle.take(slot)
        sequence.slot = slot
        if awaited is None:
            placement = self._begin(sequence, match, rescue, lost)
        else:
            self._parked[slot] = awaited
            sequence.status = Status.PARKED
            self.checkpoints.clear(slot)
            placement = Placement(sequence, None, 0, rescue, lost=lost)
        if own is not None and own != slot:
            self.checkpoints.clear(own)
        return placement

    def _fetch(self, sequence: S, above: int) -> Fetching | None:
        """Begin to fetch a saved prefix that is worth it when ``above`` tokens need not be computed
        anyway."""
        if self._saved is None or not sequence.reuse:
            return None
        prompt = sequence.tokens[: sequence.wanted_from]
        return self._saved.find(prompt, sequence.before_image, above)

    def _newcomers_slot(self, match: Found, move: bool) -> tuple[int, int | None]:
        """Choose a slot for a sequence that continues no conversation.

        Args:
            match: the prefix after which it begins.
            move: whether the content of another slot may be copied to make place. A slot that
                gets a saved prefix may not be the source of a copy at the same time.

        Returns:
            The slot, and the slot to which its content is copied first, or None. With a copy, the
            content of that second slot is evicted.
        """
        slot = self.idle.oldest()
        assert slot is not None
        if slot == match.slot and match.length >= self.min_copy:
            return slot, None  # it begins after what the slot holds
        near = self._near(slot)
        if near is not None and self.idle.spare(near):
            return near, None
        if near is None or not move:
            return slot, None
        # Wherever the newcomer runs, only what the oldest slot holds is evicted.
        self._move(near, slot)
        return near, slot

    def _own_slot(self, own: int, match: Found) -> tuple[int, int | None]:
        """Return the slot of a continued conversation, or one next to a slot in use.

        A conversation moves only if nothing is evicted: to a spare slot, or to a slot whose tokens
        can be copied to a spare one. Computing a prefix again costs more than most answers save by
        running in a neighbouring slot.
        """
        near = self._near(own) if match.length >= self.min_copy else None
        if near is None:
            return own, None
        rescue = None
        if not self.idle.spare(near):
            rescue = self.idle.empty(but=(own,))
            if rescue is None:
                return own, None
            self._move(near, rescue)
        self._empty(own)  # it is copied, and not needed twice
        return near, rescue

    def _move(self, source: int, target: int) -> None:
        self.idle.move(source, target)
        self.checkpoints.copy(source, target)

    def _near(self, slot: int) -> int | None:
        """Return an idle slot next to one in use, to replace a slot that is too far from those in
        use to be computed in the same call. Return None if the slot is near enough, if there is no
        such idle slot, or if a copy takes too long."""
        if self.n_ctx > _MAX_MOVED_CTX or self.idle.distance(slot) <= 1 + MAX_GAP // 2:
            return None
        return self.idle.neighbour()

    def _begin(
        self, sequence: S, match: Found, rescue: int | None = None, lost: Lost | None = None
    ) -> Placement[S]:
        least = MIN_REUSE if match.slot == sequence.slot else self.min_copy
        keep = match.length if match.length >= least else 0
        source = match.slot if keep else None
        self._start(sequence, keep)
        self.checkpoints.begin(sequence.slot, source, keep)
        checkpoint = match.checkpoint if keep else None
        return Placement(sequence, source, keep, rescue, lost, checkpoint=checkpoint)

    @staticmethod
    def _start(sequence: S, keep: int) -> None:
        """Let a sequence begin after ``keep`` tokens that its slot will hold."""
        sequence.computed = sequence.cached = keep
        sequence.status = Status.DECODING if keep >= len(sequence) - 1 else Status.PREFILL

    def cannot_cut(self, sequence: S) -> None:
        """Note that the model could not cut the slot in which a sequence was to begin. It begins
        with an empty slot instead, and from now on only whole sequences and checkpoints are used.
        Nothing is lost, only computed again."""
        self.can_cut = False
        self.start_over(sequence)

    def start_over(self, sequence: S) -> None:
        """Note that the prefix after which a sequence was to begin could not be restored. It begins
        with an empty slot instead."""
        self._start(sequence, 0)
        self.checkpoints.clear(sequence.slot)

    @property
    def can_cut_tail(self) -> bool:
        """Whether tokens can be cut off again that were decoded last, before any others are."""
        return self.can_cut or self.checkpoints.window > 0

    def _usable(self, slot: int, held: TokenIds, length: int) -> tuple[int, Checkpoint | None]:
        """Return the longest prefix, up to ``length``, of what a slot holds after which a sequence
        can begin, and the checkpoint that it needs."""
        return (length, None) if self.can_cut else self.checkpoints.usable(slot, held, length)

    def _best_match(self, sequence: S) -> Found:
        shared = (
            (other.slot, other.tokens[: other.computed])
            for other in self.running
            if _may_share(sequence, other) and other.status is not Status.PARKED
        )
        idle = self.idle if sequence.reuse else ()
        # Tokens whose logits are needed are always computed: at least the last one.
        prompt = sequence.tokens[: sequence.wanted_from]
        return longest_match(
            itertools.chain(idle, shared), prompt, sequence.before_image, self._usable
        )

    def _promised(self, sequence: S, length: int) -> tuple[S, int] | None:
        """Return the running sequence whose prefill will compute a prefix of this prompt that is
        longer than ``length`` by at least ``min_copy``, and the length of that prefix; or None."""
        best, source = length + self.min_copy - 1, None
        for other in self.running:
            if not _may_share(sequence, other) or len(other) - other.computed <= 1:
                continue
            shared = sequence.before_image(
                common_prefix(other.tokens[: len(other)], sequence.tokens[: sequence.wanted_from])
            )
            if shared > max(best, other.computed):
                best, source = shared, other
        return None if source is None else (source, best)

    def _unpark(self, sequence: S) -> Placement[S] | None:
        """Return the placement of a parked sequence if the prefix that it waits for is there or
        never will be, else None."""
        awaited = self._parked[sequence.slot]
        if not isinstance(awaited, tuple):
            return self._restored(sequence, awaited) if awaited.ready else None
        source, promised = awaited
        # The source has left its slot if it has ended, or was preempted and waits for another one.
        left = source.status in (Status.FINISHED, Status.WAITING)
        if not left and source.computed < promised:
            return None
        del self._parked[sequence.slot]
        return self._begin(sequence, self._best_match(sequence))

    def _restored(self, sequence: S, fetched: Fetching) -> Placement[S]:
        """Return the placement of a sequence whose saved prefix has arrived."""
        del self._parked[sequence.slot]
        match = self._best_match(sequence)
        if fetched.lost or match.length >= fetched.length:
            return self._begin(sequence, match)
        self._start(sequence, fetched.length)
        self.checkpoints.clear(sequence.slot)
        return Placement(sequence, None, fetched.length, fetched=fetched)

    def release(self, sequence: S) -> None:
        """End a running sequence. Its computed tokens stay in the slot until they are evicted."""
        self._leave(sequence)
        sequence.status = Status.FINISHED

    def _leave(self, sequence: S) -> None:
        self.running.remove(sequence)
        self._held_back = False
        slot, sequence.slot = sequence.slot, -1
        self._parked.pop(slot, None)
        kept = sequence.computed if sequence.reuse else 0
        self.idle.put(slot, sequence.tokens[:kept].copy(), sequence.n_prompt)
        if not kept:
            self.checkpoints.clear(slot)
        if self.can_cut:  # else a shorter sequence may be useful where a longer one is not
            self.idle.drop_repeated(slot)

    def forget(self, slot: int) -> None:
        """Note that an idle slot holds nothing any more."""
        if slot in self.idle:
            self._empty(slot)
            self.checkpoints.clear(slot)

    def _empty(self, slot: int) -> None:
        self.idle.put(slot, self.idle.take(slot)[:0])

    def preempt(self, sequence: S) -> None:
        """Take the slot of a running sequence away; it is computed again after another has left
        its slot."""
        sequence.computed = 0
        self._leave(sequence)
        sequence.status = Status.WAITING
        self._held_back = True
        self.waiting.appendleft(sequence)

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
        self.waiting = deque(s for s in self.waiting if s.status is Status.WAITING)
        return ended

    def counts(self) -> tuple[int, int]:
        """Return how many running sequences decode, and how many have tokens to prefill."""
        decoding = Status.DECODING
        return sum([s.status is decoding for s in self.running]), len(self._prefilling())

    def _prefilling(self) -> list[S]:
        """Return the sequences in prefill whose next part is not an image."""
        prefill = Status.PREFILL
        return [s for s in self.running if s.status is prefill and s.readable > s.computed]

    # --- the step -----------------------------------------------------------------------------

    def plan(self, *, prefill: int, burst: int = 0) -> list[BatchSpan[S]]:
        """Return the spans of the next decode call; empty when nothing runs.

        Args:
            prefill: most tokens of prefill beside sequences that decode, at least 1.
            burst: if the rest of the oldest prompt has at most this many tokens, all of it is
                prefilled, even if that is more than ``prefill``.

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
            if not self.can_cut:
                count = min(count, self._stop(sequence) - sequence.computed)
            if sequence.wanted_from < len(sequence) - 1:
                count = min(count, logits)
                logits -= count
            if count:
                spans.append(BatchSpan(sequence, sequence.computed, count))
                budget -= count
        return spans

    def _stop(self, sequence: S) -> int:
        """Return where the next span of a prompt must end if its model cannot cut: where a
        checkpoint is taken, or where a parked sequence begins."""
        stop = self.checkpoints.next_stop(sequence)
        stops = [len(sequence) if stop is None else stop]
        for awaited in self._parked.values():
            if isinstance(awaited, tuple) and awaited[0] is sequence:
                stops.append(awaited[1])
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

    def await_mask(self, sequence: S) -> None:
        """Note that a sequence's logits are computed, but the mask of its grammar is late."""
        sequence.status = Status.AWAITING_MASK

    def resume(self, sequence: S) -> None:
        """Note that the mask for which a sequence waits is ready."""
        sequence.status = Status.DECODING

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


def _may_share(a: Schedulable, b: Schedulable) -> bool:
    """Whether one may begin after the other's tokens: choices of one request always may."""
    return (a.reuse and b.reuse) or a.request_id == b.request_id
