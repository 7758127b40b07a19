"""Which computed tokens can be used again: what the slots hold, and who shares how much. Pure.

Keys and values of a token depend on the tokens before it alone, so a prompt that begins like
another sequence need not be computed that far. Whole token ids are compared, never hashes: what is
reused is the same text for certain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

MIN_COPY = 16
"""Tokens. A shorter prefix is computed sooner than a sequence is copied."""


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

    def oldest(self, but: int = -1) -> int | None:
        """Return the slot to give up first, empty ones before all; never ``but``.

        The newest are spared, as many as half of all slots; of the others it is the lowest: rows of
        neighbouring slots are computed together, and which of the old ones goes matters less.
        """
        slots = [slot for slot in self._held if slot != but]
        empty = [slot for slot in slots if len(self._held[slot]) == 0]
        older = slots[: max(1, len(slots) - self._n_slots // 2)]
        return min(empty or older, default=None)

    def clear(self) -> list[int]:
        """Give everything up that is held; return the slots that held something."""
        held = [slot for slot, tokens in self._held.items() if len(tokens)]
        for slot in held:
            self.put(slot, np.empty(0, dtype=np.int32))
        return held
