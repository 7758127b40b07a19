"""Which computed tokens can be used again: what the slots hold, and the prefixes they share. Pure.

Keys and values of a token depend only on the token and those before it, so the prefix that a prompt
shares with another sequence need not be computed again. Token ids are compared, never hashes, so
reused tokens are certainly the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]

MIN_REUSE = 16
"""Tokens. A shorter prefix is computed again, even in the slot that holds it. llama.cpp rounds
differently if it computes fewer tokens at once, so an answer would depend on earlier requests that
have only the BOS token or a word of a template in common with it, and hardly any time is saved."""
MIN_COPY = 16
"""Tokens. A shorter prefix is not worth a copy."""
REWRITTEN = 4
"""Tokens at the end of a prompt that the next turn of its conversation may write differently. Some
chat templates open the answer with reasoning and leave reasoning out of later prompts; the empty
reasoning of Qwen 3 has four tokens."""


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """Return how many tokens two sequences have in common from their beginning."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Match(Generic[C]):
    """A slot that holds the first ``length`` tokens of a prompt.

    ``checkpoint`` must be copied back to the slot before a sequence can begin after these tokens.
    """

    slot: int
    length: int
    checkpoint: C | None = None


def longest_match(
    slots: Iterable[tuple[int, TokenIds]],
    prompt: TokenIds,
    before_image: Callable[[int], int],
    usable: Callable[[int, TokenIds, int], tuple[int, C | None]],
) -> Match[C]:
    """Return the first slot that holds the longest usable prefix of a prompt. The slot is -1 if no
    slot holds one.

    Args:
        slots: each with the tokens that are computed in it.
        prompt: those first tokens of the prompt that may be taken from a slot.
        before_image: shortens a length so that it does not end inside an image.
        usable: shortens a length to one after which a sequence can begin, given the slot and the
            tokens in it; also returns the checkpoint that this needs.
    """
    best: Match[C] = Match(-1, 0)
    for slot, held in slots:
        length = before_image(common_prefix(held, prompt))
        if length > best.length:
            length, checkpoint = usable(slot, held, length)
            if length > best.length:
                best = Match(slot, length, checkpoint)
    return best


class IdleSlots:
    """The idle slots and the tokens that they still hold, least recently used first."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._held: OrderedDict[int, TokenIds] = OrderedDict(
            (slot, np.empty(0, dtype=np.int32)) for slot in range(n_slots)
        )
        self._n_prompt: dict[int, int] = {}
        self._partition: dict[int, str] = {}
        self._reserved: set[int] = set()
        self._has_cells: set[int] = set()
        """Slots that may have cells, even if what these hold is of no use any more."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, slot: int) -> bool:
        return slot in self._held

    def __iter__(self) -> Iterator[tuple[int, TokenIds]]:
        return iter(self._held.items())

    def now(self) -> list[tuple[int, TokenIds]]:
        """Return the idle slots and what they hold. Any thread may ask, while another one changes
        them."""
        while True:
            try:
                return [*self._held.items()]
            except RuntimeError:  # they have just changed
                continue

    def of(self, partition: str) -> Iterator[tuple[int, TokenIds]]:
        """Yield the idle slots whose tokens the sequences of a partition may use."""
        return (pair for pair in self._held.items() if self.partition(pair[0]) == partition)

    def put(
        self, slot: int, tokens: TokenIds, n_prompt: int | None = None, *, partition: str = ""
    ) -> None:
        """Note that a sequence has left a slot.

        Args:
            slot: the slot.
            tokens: the tokens that are computed in it; may be empty.
            n_prompt: length of the sequence's prompt; tokens after it are the answer. None: all of
                the tokens are prompt.
            partition: of the sequence.
        """
        self._held[slot] = tokens
        self._partition[slot] = partition
        self._n_prompt[slot] = len(tokens) if n_prompt is None else min(n_prompt, len(tokens))
        self._has_cells.add(slot)

    def take(self, slot: int) -> TokenIds:
        """Note that a sequence gets a slot; return the tokens that it holds."""
        return self._held.pop(slot)

    def tokens(self, slot: int) -> TokenIds:
        """Return the tokens that an idle slot holds."""
        return self._held[slot]

    def prompt_length(self, slot: int) -> int:
        """Return how many of the tokens that an idle slot holds are the prompt of their sequence;
        the others are its answer."""
        return self._n_prompt.get(slot, 0)

    def partition(self, slot: int) -> str:
        """Return the partition of the sequence whose tokens an idle slot holds."""
        return self._partition.get(slot, "")

    def holds(self, slot: int) -> int:
        """Return how many tokens an idle slot holds."""
        return len(self._held[slot])

    def reserve(self, slots: Iterable[int]) -> None:
        """Reserve idle slots for sequences that take them in this step. Until :meth:`release` they
        count as in use: no other sequence gets them, and what they hold is not moved."""
        self._reserved = set(slots)

    def release(self, slot: int) -> None:
        """End the reservation of a slot, because its sequence takes it now."""
        self._reserved.discard(slot)

    def goes_on(self, slot: int, shared: int) -> bool:
        """Return whether a prompt continues what a slot holds, so that it may replace it.

        Args:
            slot: an idle slot.
            shared: length of the prefix that the slot and the prompt share.

        Returns:
            True for the next turn of a conversation and for the same prompt again: the prompt
            begins with the whole prompt in the slot, except for the few tokens that a template
            rewrites. The rest of the slot will not be needed again. If fewer than ``MIN_COPY``
            tokens are shared, that rest must be shorter than ``MIN_COPY`` too.
        """
        if shared == 0 or shared + REWRITTEN < self._n_prompt[slot]:
            return False
        return shared >= MIN_COPY or self.holds(slot) - shared < MIN_COPY

    def spare(self, slot: int) -> bool:
        """Return whether a slot is spare: idle, not reserved, and not worth keeping."""
        return slot in self._held and slot not in self._reserved and self.holds(slot) < MIN_COPY

    def oldest(self) -> int | None:
        """Return the slot to evict first: a spare one, else the least recently used.

        Among spare slots, prefer the one nearest to a slot in use, because sequences in
        neighbouring slots are computed together. If none is in use, prefer the slot that begins the
        longest run of spare slots.
        """
        found = self.empty()
        free = (slot for slot in self._held if slot not in self._reserved)
        return next(free, None) if found is None else found

    def empty(self, but: Container[int] = ()) -> int | None:
        """Return a spare slot that is not in ``but``, chosen as in :meth:`oldest`, or None.

        Slots without tokens are preferred to those with a few.
        """
        spare = sorted(slot for slot in self._held if self.spare(slot) and slot not in but)
        spare = [slot for slot in spare if self.holds(slot) == 0] or spare
        if not spare or not self._used():
            return _longest_run(spare)
        return min(spare, key=self.distance)

    def distance(self, slot: int) -> int:
        """Return the distance of an idle slot to the nearest one in use: 1 for neighbours, and
        also if none is in use."""
        return min((abs(slot - other) for other in self._used() if other != slot), default=1)

    def neighbour(self) -> int | None:
        """Return an idle slot next to one in use, or None.

        Spare slots come first, because nothing has to be moved out of them; then slots between two
        in use; then the least recently used.
        """
        used = self._used()
        near = [s for s in self._held if s not in self._reserved and self.distance(s) == 1]
        if not near or not used:
            return None
        return min(near, key=lambda s: (not self.spare(s), not used[0] < s < used[-1]))

    def move(self, source: int, target: int) -> None:
        """Note that an idle slot's tokens are in another one now, with their place in the order of
        use."""
        self._n_prompt[target] = self._n_prompt.get(source, 0)
        self._partition[target] = self.partition(source)
        self._held = OrderedDict(
            (target if slot == source else slot, tokens)
            for slot, tokens in self._held.items()
            if slot != target
        )
        self.put(source, np.empty(0, dtype=np.int32))

    def drop_repeated(self, slot: int) -> None:
        """If one idle slot holds a prefix of another, keep only the longer sequence.

        Args:
            slot: has just become idle. If another slot's sequence begins with its tokens, this one
                becomes empty and the other one counts as just used.
        """
        tokens = self._held[slot]
        for other, held in list(self._held.items()):
            if other == slot or len(held) == 0 or self.partition(other) != self.partition(slot):
                continue
            if _begins_with(tokens, held):
                self.put(other, held[:0])
            elif _begins_with(held, tokens):
                self.put(slot, tokens[:0])
                self._held.move_to_end(other)
                return

    def clear(self) -> list[int]:
        """Evict all idle slots; return those that may have cells, which the caller frees.

        A slot that holds nothing of use may have some: those of a request that nothing may share.
        """
        freed = [slot for slot in self._held if slot in self._has_cells]
        for slot in freed:
            self.put(slot, np.empty(0, dtype=np.int32))
        self._has_cells.difference_update(freed)
        return freed

    def _used(self) -> list[int]:
        """The slots in use or reserved, in ascending order."""
        return [s for s in range(self._n_slots) if s not in self._held or s in self._reserved]


def _begins_with(tokens: TokenIds, beginning: TokenIds) -> bool:
    n = len(beginning)
    # Compare one token first: most pairs already differ there.
    if n == 0 or n > len(tokens) or tokens[n - 1] != beginning[n - 1]:
        return False
    return bool(np.array_equal(tokens[:n], beginning))


def _longest_run(slots: list[int]) -> int | None:
    """Return where the longest run of neighbours among ascending slots begins."""
    begin, best, longest = None, None, 0
    for place, slot in enumerate(slots):
        if begin is None or slots[place - 1] != slot - 1:
            begin = slot
        if slot - begin + 1 > longest:
            best, longest = begin, slot - begin + 1
    return best
