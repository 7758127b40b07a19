"""Which computed tokens can be used again: what the slots hold, and who shares how much. Pure.

Keys and values of a token depend on the tokens before it alone, so a prompt that begins like
another sequence need not be computed that far. Whole token ids are compared, never hashes: what is
reused is the same text for certain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

MIN_COPY = 16
"""Tokens. A shorter prefix is not worth the trouble of a copy."""


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


class IdleSlots:
    """The slots in which nothing runs, and what is still in them, least recently used first."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._held: OrderedDict[int, Tokens] = OrderedDict(
            (slot, np.empty(0, dtype=np.int32)) for slot in range(n_slots)
        )

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, slot: int) -> bool:
        return slot in self._held

    def __iter__(self) -> Iterator[tuple[int, Tokens]]:
        return iter(self._held.items())

    def put(self, slot: int, tokens: Tokens) -> None:
        """A sequence has left a slot in which these tokens are computed; empty: nothing is."""
        self._held[slot] = tokens

    def take(self, slot: int) -> Tokens:
        """A sequence moves into a slot; return what was in it."""
        return self._held.pop(slot)

    def holds(self, slot: int) -> int:
        """Return how many tokens an idle slot holds."""
        return len(self._held[slot])

    def oldest(self, but: Container[int] = ()) -> int | None:
        """Return the slot to give up first, empty ones before all; none of ``but``.

        The newest are spared, as many as half of all slots. Of the others it is the one nearest to
        a slot in use: rows of neighbouring slots are computed together, and which of the old ones
        goes matters less. Where none is in use, the one that begins the longest row of them.
        """
        slots = [slot for slot in self._held if slot not in but]
        empty = [slot for slot in slots if len(self._held[slot]) == 0]
        older = slots[: max(1, len(slots) - self._n_slots // 2)]
        candidates = sorted(empty or older)
        if not candidates or len(self._held) == self._n_slots:
            return _longest_row(candidates)
        return min(candidates, key=self.distance)

    def distance(self, slot: int) -> int:
        """Return how far an idle slot is from the nearest one in use; 1: they are neighbours."""
        used = (other for other in range(self._n_slots) if other not in self._held)
        return min((abs(slot - other) for other in used), default=1)

    def neighbour(self) -> int | None:
        """Return an idle slot beside one in use: in a gap, else the least recently used."""
        near = [slot for slot in self._held if self.distance(slot) == 1]
        used = [slot for slot in range(self._n_slots) if slot not in self._held]
        if not near or not used:
            return None
        return min(near, key=lambda slot: not used[0] < slot < used[-1])

    def move(self, source: int, target: int) -> None:
        """What an idle slot holds is in another one now, as recently used as it was."""
        self._held = OrderedDict(
            (target if slot == source else slot, tokens)
            for slot, tokens in self._held.items()
            if slot != target
        )
        self.put(source, np.empty(0, dtype=np.int32))

    def clear(self) -> list[int]:
        """Give everything up that is held; return the slots that held something."""
        held = [slot for slot, tokens in self._held.items() if len(tokens)]
        for slot in held:
            self.put(slot, np.empty(0, dtype=np.int32))
        return held


def _longest_row(slots: list[int]) -> int | None:
    """Return where the longest row of neighbours among ascending slots begins."""
    begin, best, longest = None, None, 0
    for place, slot in enumerate(slots):
        if begin is None or slots[place - 1] != slot - 1:
            begin = slot
        if slot - begin + 1 > longest:
            best, longest = begin, slot - begin + 1
    return best
