"""Which computed tokens can be used again: what the slots hold, and who shares how much. Pure.

Keys and values of a token depend on the tokens before it alone, so a prompt that begins like
another sequence need not be computed that far. Whole token ids are compared, never hashes: what is
reused is the same text for certain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

MIN_COPY = 16
"""Tokens. A shorter prefix is not worth the trouble of a copy."""
REWRITTEN = 4
"""Tokens at the end of a prompt that the next turn of its conversation may write differently. Some
chat templates open the answer with a thought and leave thoughts out of later prompts; Qwen 3's
empty thought has four tokens."""


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two sequences have in common from their beginning."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


@dataclass(frozen=True, slots=True)
class Match:
    """A slot that holds the beginning of a prompt: ``length`` tokens of it."""

    slot: int
    length: int


NO_MATCH = Match(-1, 0)


def longest_match(
    slots: Iterable[tuple[int, Tokens]],
    prompt: Tokens,
    whole: Callable[[int], int],
    can_cut: bool,
) -> Match:
    """Return the first of the slots that hold most of a prompt, or NO_MATCH.

    Args:
        slots: each with the tokens that are computed in it.
        prompt: as many of its tokens as need not be computed.
        whole: shortens a length so that it ends within no image.
        can_cut: whether the model can drop the end of what a slot holds. If not, a slot counts only
            if all of its tokens are of use.
    """
    best = NO_MATCH
    for slot, held in slots:
        length = whole(common_prefix(held, prompt))
        if length > best.length and (can_cut or length == len(held)):
            best = Match(slot, length)
    return best


class IdleSlots:
    """The slots in which nothing runs, and what is still in them, least recently used first."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._held: OrderedDict[int, Tokens] = OrderedDict(
            (slot, np.empty(0, dtype=np.int32)) for slot in range(n_slots)
        )
        self._n_prompt: dict[int, int] = {}
        self._reserved: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, slot: int) -> bool:
        return slot in self._held

    def __iter__(self) -> Iterator[tuple[int, Tokens]]:
        return iter(self._held.items())

    def put(self, slot: int, tokens: Tokens, n_prompt: int | None = None) -> None:
        """A sequence has left a slot in which these tokens are computed; empty: nothing is.

        Args:
            slot: the slot.
            tokens: what is computed in it.
            n_prompt: tokens of the sequence's prompt; the rest is an answer. None: all are prompt.
        """
        self._held[slot] = tokens
        self._n_prompt[slot] = len(tokens) if n_prompt is None else min(n_prompt, len(tokens))

    def take(self, slot: int) -> Tokens:
        """A sequence moves into a slot; return what was in it."""
        return self._held.pop(slot)

    def tokens(self, slot: int) -> Tokens:
        """Return what an idle slot holds."""
        return self._held[slot]

    def holds(self, slot: int) -> int:
        """Return how many tokens an idle slot holds."""
        return len(self._held[slot])

    def reserve(self, slots: Iterable[int]) -> None:
        """Keep idle slots for sequences that take them in this step. Until :meth:`release` they
        count as in use: no other sequence gets them, and what they hold is not moved."""
        self._reserved = set(slots)

    def release(self, slot: int) -> None:
        """End the reservation of a slot: the sequence that it is for takes it now."""
        self._reserved.discard(slot)

    def goes_on(self, slot: int, shared: int) -> bool:
        """Return whether a prompt goes on with what a slot holds, so that it may take its place.

        Args:
            slot: an idle slot.
            shared: tokens from its beginning with which the prompt begins too.

        Returns:
            True for the next turn of a conversation and for the same prompt again: the prompt
            begins like the whole prompt in the slot, except for the few tokens that a template
            rewrites. The answer after them will not be asked for again. Where fewer than
            ``MIN_COPY`` tokens are shared, the rest of the slot has to be as short.
        """
        if shared == 0 or shared + REWRITTEN < self._n_prompt[slot]:
            return False
        return shared >= MIN_COPY or self.holds(slot) - shared < MIN_COPY

    def spare(self, slot: int) -> bool:
        """Return whether an idle slot holds nothing that is worth keeping."""
        return slot in self._held and slot not in self._reserved and self.holds(slot) < MIN_COPY

    def oldest(self) -> int | None:
        """Return the slot to give up first: a spare one, else the least recently used.

        Of the spare ones it is the one nearest to a slot in use, because sequences in neighbouring
        slots are computed together; where none is in use, the one that begins the longest run of
        spare slots.
        """
        found = self.empty()
        free = (slot for slot in self._held if slot not in self._reserved)
        return next(free, None) if found is None else found

    def empty(self, but: Container[int] = ()) -> int | None:
        """Return the spare slot nearest to a slot in use, as :meth:`oldest` does; none of ``but``.

        Empty ones go before those with a few tokens.
        """
        spare = sorted(slot for slot in self._held if self.spare(slot) and slot not in but)
        spare = [slot for slot in spare if self.holds(slot) == 0] or spare
        if not spare or not self._used():
            return _longest_run(spare)
        return min(spare, key=self.distance)

    def distance(self, slot: int) -> int:
        """Return how far an idle slot is from the nearest one in use; 1: they are neighbours."""
        return min((abs(slot - other) for other in self._used() if other != slot), default=1)

    def neighbour(self) -> int | None:
        """Return an idle slot beside one in use: in a gap, else the least recently used.

        Spare ones go before all: nothing has to be moved out of them.
        """
        used = self._used()
        near = [s for s in self._held if s not in self._reserved and self.distance(s) == 1]
        if not near or not used:
            return None
        return min(near, key=lambda s: (not self.spare(s), not used[0] < s < used[-1]))

    def move(self, source: int, target: int) -> None:
        """What an idle slot holds is in another one now, as recently used as it was."""
        self._n_prompt[target] = self._n_prompt.get(source, 0)
        self._held = OrderedDict(
            (target if slot == source else slot, tokens)
            for slot, tokens in self._held.items()
            if slot != target
        )
        self.put(source, np.empty(0, dtype=np.int32))

    def drop_repeated(self, slot: int) -> None:
        """Keep tokens that two idle slots hold only once: the longer sequence stays.

        Args:
            slot: has just become idle. If another slot's sequence begins with its tokens, this one
                becomes empty and the other one counts as just used.
        """
        tokens = self._held[slot]
        for other, held in list(self._held.items()):
            if other == slot or len(held) == 0:
                continue
            if _begins_with(tokens, held):
                self.put(other, held[:0])
            elif _begins_with(held, tokens):
                self.put(slot, tokens[:0])
                self._held.move_to_end(other)
                return

    def clear(self) -> list[int]:
        """Give everything up that is held; return the slots that held something."""
        held = [slot for slot, tokens in self._held.items() if len(tokens)]
        for slot in held:
            self.put(slot, np.empty(0, dtype=np.int32))
        return held

    def _used(self) -> list[int]:
        """The slots in use or reserved, in ascending order."""
        return [s for s in range(self._n_slots) if s not in self._held or s in self._reserved]


def _begins_with(tokens: Tokens, beginning: Tokens) -> bool:
    n = len(beginning)
    # Most pairs differ in this one token.
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
