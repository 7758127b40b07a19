"""Which sequence is in which slot, and after which prefix it begins. Pure.

A newcomer begins after the longest prefix that some slot already holds: the slot of a running
sequence, or an idle slot that still holds a finished one. If the model cannot cut sequences
anywhere, it begins after a whole sequence or a checkpoint. A prefix of a few tokens is
computed again, so that an answer does not depend on requests that are hardly related to it. If a
running sequence is about to compute a longer prefix, the new sequence is parked until then instead
of computing it again. It is parked too while a saved prefix is fetched from memory or disk.

Only sequences of one partition share prefixes: see ``GenerationRequest.partition``.

The next turn of a conversation takes the slot that holds the conversation. A computed prefix is
evicted only for a sequence that needs a slot, least recently used first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol

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
from offgrid.engine.worker.spans import S, Schedulable

MAX_GAP = 2
"""Largest number of slots between two spans that is bridged; see :meth:`Scheduler.bridges`."""
_COPY_SHARE = 128
"""The time of a copy depends on the size of the context, not on what the slot holds. A prefix that
is shorter than this fraction (1/128) of the context may be faster to compute than to copy."""
_MAX_MOVED_CTX = 16384
"""Tokens. With a longer context, slots are not copied to become neighbours: it takes too long."""

Found = Match[Checkpoint]
_NOTHING: Found = Match(-1, 0)


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
        self, prompt: TokenIds, before_image: Callable[[int], int], above: int, partition: str
    ) -> Fetching | None:
        """Begin to fetch the longest saved prefix of a prompt in a partition, if it is worth it
        when ``above`` tokens need not be computed anyway."""


Lost = tuple[int, TokenIds, int, str, Checkpoint | None]
"""A slot whose content is about to be lost: slot, tokens, how many of them are the prompt, their
partition, and the checkpoint after which the prompt can begin again."""


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


class Slots(Generic[S]):
    """The slots: what each of them holds, and which sequence runs in it.

    Args:
        n_slots: sequences that can run at once.
        n_ctx: tokens that a slot can hold.
        can_cut: whether the model can cut a sequence anywhere. :meth:`cannot_cut` sets it to false.
        saved: the prefixes that are saved in memory and on disk, or None.
        checkpoints: of a model that cannot: what can be used of its sequences besides whole ones.

    Attributes:
        running: the sequences that have a slot, in the order in which they got it.
        idle: the slots that no sequence has.
        min_copy: fewest tokens of a prefix that is copied.
    """

    def __init__(
        self,
        n_slots: int,
        n_ctx: int,
        can_cut: bool,
        saved: SavedPrefixes | None,
        checkpoints: Checkpoints | None,
    ) -> None:
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

    # --- newcomers ----------------------------------------------------------------------------

    def _place_all(self, newcomers: list[S]) -> list[Placement[S]]:
        """Give a slot to each of several sequences; there must be enough idle ones."""
        # Find the slots of continued conversations for all newcomers first, so that none of them
        # evicts the prefix of another one.
        own = self._own_slots(newcomers)
        self.idle.reserve(own.values())
        placements = []
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
            for slot, held in self.idle.of(sequence.partition) if sequence.reuse else ():
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
        before = {one: self._held_by(one) for one, _ in self.idle}
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
        return self._saved.find(prompt, sequence.before_image, above, sequence.partition)

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
        idle = self.idle.of(sequence.partition) if sequence.reuse else ()
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
                common_prefix(
                    other.tokens[: other.lasting], sequence.tokens[: sequence.wanted_from]
                )
            )
            if shared > max(best, other.computed):
                best, source = shared, other
        return None if source is None else (source, best)

    # --- helpers --------------------------------------------------------------------------------

    def lendable(self) -> int | None:
        """Return an idle slot in which a further sequence of a running request may begin after its
        prompt; None if there is none. What the slot holds must be of no use, or be saved."""
        slot = self.idle.oldest() if self.can_cut else None
        if slot is None or self.idle.spare(slot) or self._saved is not None:
            return slot
        return self.idle.empty()

    def lend(self, slot: int, sequence: S, keep: int) -> Lost:
        """Give an idle slot to a further sequence of a running request.

        Args:
            slot: the slot.
            sequence: begins in it.
            keep: how many of its tokens the slot will hold.

        Returns:
            What the slot held.
        """
        lost = self._held_by(slot)
        self.idle.take(slot)
        self.checkpoints.clear(slot)
        sequence.slot = slot
        self.running.append(sequence)
        self._start(sequence, keep)
        return lost

    def _held_by(self, slot: int) -> Lost:
        """Return what an idle slot holds."""
        tokens, n_prompt = self.idle.tokens(slot), self.idle.prompt_length(slot)
        before = self.checkpoints.before_end(slot, tokens, n_prompt)
        return slot, tokens, n_prompt, self.idle.partition(slot), before

    # --- parked sequences ---------------------------------------------------------------------

    def _unpark_all(self) -> list[Placement[S]]:
        """Let the parked sequences begin whose wait is over."""
        parked = [s for s in self.running if s.status is Status.PARKED] if self._parked else []
        return [p for p in map(self._unpark, parked) if p is not None]

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

    def _awaited(self, sequence: S) -> list[int]:
        """Return after how many tokens of a running sequence others will begin, which are parked
        until then."""
        found = [one for one in self._parked.values() if isinstance(one, tuple)]
        return [length for source, length in found if source is sequence]

    # --- what becomes of slots ----------------------------------------------------------------

    def _leave(self, sequence: S) -> None:
        """Take a sequence out of its slot. What is computed stays there until it is evicted."""
        self.running.remove(sequence)
        slot, sequence.slot = sequence.slot, -1
        self._parked.pop(slot, None)
        kept = sequence.computed if sequence.reuse else 0
        self.idle.put(
            slot, sequence.tokens[:kept].copy(), sequence.n_prompt, partition=sequence.partition
        )
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


def _may_share(a: Schedulable, b: Schedulable) -> bool:
    """Whether one may begin after the other's tokens: choices of one request always may."""
    return (a.reuse and b.reuse and a.partition == b.partition) or a.request_id == b.request_id
