"""Checkpoints: copies of what a slot holds for models that cannot cut a sequence anywhere. Pure.

A recurrent layer has one state for all tokens so far, and the cache of a sliding window forgets the
tokens before the window. Their part of a slot is small, so it is copied at certain lengths of a
sequence. Another sequence with the same first tokens begins after such a length: the part is copied
back, and keys and values of the other layers are cut there. The engine copies; this module only
decides what and when.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np

from offgrid.engine.worker.prefix import REWRITTEN, TokenIds

INTERVAL = 512
"""Tokens between two checkpoints of a sequence: as many as llama.cpp computes at once."""
MIN_SPACING = 64
"""Tokens. The checkpoint at the end of a prompt is not worth its memory if fewer tokens than this
would be computed again without it."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a slot held of a sequence's first tokens.

    Attributes:
        tokens: those tokens. They are compared before the checkpoint is used.
        state: bytes that the engine copies back; only ``len(state)`` matters here.
    """

    tokens: TokenIds
    state: Any = field(repr=False)

    @property
    def length(self) -> int:
        """The number of tokens."""
        return len(self.tokens)


class Growing(Protocol):
    """The part of a sequence that decides when a checkpoint is taken."""

    slot: int
    computed: int
    n_prompt: int


class Checkpoints:
    """The checkpoints of all slots, within a budget.

    Each slot has a list of checkpoints of the sequence that it holds, the shortest first. A copy of
    a slot shares the checkpoints of the original.

    Args:
        budget: most bytes of all states. 0: there are no checkpoints.
        window: tokens of the sliding window, or 0. Of a slot with a window, what follows a token
            can be cut if the slot still holds the window before it.
        oldest: returns the position of the oldest token that a slot's windows hold; -1 if there is
            none.
        interval: tokens between two checkpoints.
        spacing: fewest tokens between the checkpoint at the end of a prompt and the one before.
    """

    def __init__(
        self,
        budget: int,
        *,
        window: int = 0,
        oldest: Callable[[int], int] | None = None,
        interval: int = INTERVAL,
        spacing: int = MIN_SPACING,
    ) -> None:
        self.budget = budget
        self.window = window
        self.interval = max(interval, window)
        self.spacing = spacing
        self._oldest = oldest
        self._of_slot: OrderedDict[int, list[Checkpoint]] = OrderedDict()
        """Slot -> its checkpoints; the slot that got one last is at the end."""
        self._last: dict[int, int] = {}
        """Slot -> length of the last checkpoint of its sequence, whether it was kept or not."""

    # --- which prefixes can be continued ------------------------------------------------------

    def usable(self, slot: int, held: TokenIds, length: int) -> tuple[int, Checkpoint | None]:
        """Return the longest prefix, up to ``length``, after which a sequence can begin.

        Args:
            slot: holds the prefix.
            held: the tokens that are computed in the slot.
            length: tokens of it that the new sequence begins with.

        Returns:
            The length, and the checkpoint to be copied back; None if none is needed.
        """
        if length == len(held) or self._in_window(slot, length):
            return length, None
        found = self._longest(slot, held, length)
        return (0, None) if found is None else (found.length, found)

    def before_end(self, slot: int, held: TokenIds, n_prompt: int) -> Checkpoint | None:
        """Return the longest checkpoint after which the same prompt can begin again.

        Args:
            slot: holds the prompt and its answer.
            held: the tokens that are computed in the slot.
            n_prompt: how many of them are the prompt.
        """
        return self._longest(slot, held, n_prompt - 1)

    def _in_window(self, slot: int, length: int) -> bool:
        if not self.window or self._oldest is None:
            return False
        return 0 <= self._oldest(slot) <= first_needed(length, self.window)

    def _longest(self, slot: int, held: TokenIds, length: int) -> Checkpoint | None:
        fitting = (
            checkpoint
            for checkpoint in reversed(self._of_slot.get(slot, ()))
            if checkpoint.length <= length
            and np.array_equal(checkpoint.tokens, held[: checkpoint.length])
        )
        return next(fitting, None)

    # --- what happens to a slot ---------------------------------------------------------------

    def begin(self, slot: int, source: int | None, keep: int) -> None:
        """Note that a sequence begins in a slot, after ``keep`` tokens that ``source`` holds. None:
        it begins with an empty slot."""
        kept = [] if source is None else self._of_slot.get(source, [])
        kept = [checkpoint for checkpoint in kept if checkpoint.length <= keep]
        self.clear(slot)
        if kept:
            self._of_slot[slot] = kept
            self._last[slot] = kept[-1].length

    def copy(self, source: int, target: int) -> None:
        """Note that a slot's content was copied to another slot."""
        self.clear(target)
        if source in self._of_slot:
            self._of_slot[target] = list(self._of_slot[source])
            self._of_slot.move_to_end(target, last=False)

    def clear(self, slot: int) -> None:
        """Drop the checkpoints of a slot."""
        self._of_slot.pop(slot, None)
        self._last.pop(slot, None)

    # --- taking them --------------------------------------------------------------------------

    def next_stop(self, sequence: Growing) -> int | None:
        """Return where the next span of a prompt must end because a checkpoint is taken there, or
        None. It is after ``computed``."""
        return min((n for n in self._lengths(sequence) if n > sequence.computed), default=None)

    def due(self, sequence: Growing) -> bool:
        """Whether a checkpoint of a running sequence is to be taken now."""
        if not self.budget or sequence.computed <= self._last.get(sequence.slot, 0):
            return False
        every, *end = self._lengths(sequence)
        return sequence.computed >= every or sequence.computed in end

    def _lengths(self, sequence: Growing) -> list[int]:
        """Return the lengths at which the next checkpoints of a sequence are taken: after the
        interval, and near the end of its prompt, where the next turn may be written differently.
        Of two that would be close to each other, only the second is taken."""
        if not self.budget:
            return []
        last = self._last.get(sequence.slot, 0)
        every, end = last + self.interval, sequence.n_prompt - REWRITTEN
        if end - last < self.spacing or sequence.computed > end:
            return [every]
        return [end] if 0 <= end - every < self.spacing else [every, end]

    def add(self, slot: int, tokens: TokenIds, state: Sized | None) -> None:
        """Add a checkpoint of a slot, and drop others if all of them exceed the budget.

        Args:
            slot: whose content was copied.
            tokens: all tokens that it held; a copy is kept.
            state: what was copied; None if it could not be.
        """
        self._last[slot] = len(tokens)
        if state is None or len(state) > self.budget:
            return
        self._of_slot.setdefault(slot, []).append(Checkpoint(tokens.copy(), state))
        self._of_slot.move_to_end(slot)
        while self.used > self.budget:
            self._drop_one()

    @property
    def used(self) -> int:
        """Bytes of all states. Those that slots share count once."""
        kept = {id(one): len(one.state) for one in chain.from_iterable(self._of_slot.values())}
        return sum(kept.values())

    def _drop_one(self) -> None:
        """Drop a checkpoint of the slot that has most of them; of several, the one that got none
        for the longest time. The longest checkpoint of a slot is dropped last."""
        slot = max(self._of_slot, key=lambda slot: len(self._of_slot[slot]))
        kept = self._of_slot[slot]
        del kept[least_needed([checkpoint.length for checkpoint in kept])]
        if not kept:
            del self._of_slot[slot]


def first_needed(length: int, window: int) -> int:
    """Return the first position whose keys and values a token at position ``length`` needs in a
    layer with a sliding window: it attends to itself and the ``window - 1`` tokens before it."""
    return max(0, length - window + 1)


def least_needed(lengths: list[int]) -> int:
    """Return the index of the checkpoint to drop from a list of ascending lengths.

    After it is dropped, a sequence that branches off shortly before the next checkpoint begins
    after the one before. That costs little if it branches off far from the end, because then much
    is computed anyway. So the gap is divided by its distance from the end, and the smallest result
    wins: what remains becomes sparser towards the beginning. The last one is never chosen, unless
    it is the only one.
    """
    if len(lengths) == 1:
        return 0
    before = [0, *lengths]
    last = lengths[-1]
    costs = [
        (lengths[index + 1] - before[index]) / (last - before[index])
        for index in range(len(lengths) - 1)
    ]
    return costs.index(min(costs))
