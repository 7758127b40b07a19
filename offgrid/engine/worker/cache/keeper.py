"""Copies what slots hold to the tiers before it is lost, and back into slots.

It runs on the loop's thread, because only that may call llama.cpp. A copy takes the time of copying
the bytes, 50 to 100 ms for 4,000 tokens of a model of a billion parameters.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from offgrid.engine.worker.cache.index import StateBytes
from offgrid.engine.worker.cache.tiers import Fetch, Tiers
from offgrid.engine.worker.checkpoints import Checkpoint, Checkpoints
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prefix import IdleSlots, TokenIds

log = logging.getLogger(__name__)

_QUIET = 1.0
"""Seconds without a request after which the contents of idle slots are written to disk."""


class Keeper:
    """Saves and restores slots.

    Args:
        model: whose slots they are.
        tiers: where the states go; None if there are none.
    """

    def __init__(self, model: Model, tiers: Tiers | None) -> None:
        self._model = model
        self.tiers = tiers
        self._checked: dict[int, TokenIds] = {}
        """Slot -> what it held when it was last written, or found not worth it."""

    def obeys(self) -> bool:
        """Whether somebody has deleted all prefixes since the last call. Then those in memory are
        discarded, and the caller empties the idle slots."""
        return self.tiers is not None and self.tiers.obey()

    def save(
        self,
        slot: int,
        tokens: TokenIds,
        n_prompt: int,
        partition: str = "",
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Save what a slot holds, if that is worth it: it is about to be lost.

        Args:
            slot: the slot.
            tokens: what it holds.
            n_prompt: how many of them are the prompt.
            partition: of these tokens.
            checkpoint: after which the same prompt can begin again, if the slot cannot be cut.
        """
        tiers, size = self.tiers, self._size(slot, tokens, checkpoint)
        if tiers is not None and tiers.wants(tokens, size, partition):
            self._save(tiers, slot, tokens, n_prompt, partition, checkpoint, to_disk=False)

    def _save(
        self,
        tiers: Tiers,
        slot: int,
        tokens: TokenIds,
        n_prompt: int,
        partition: str,
        checkpoint: Checkpoint | None,
        *,
        to_disk: bool,
    ) -> bool:
        state = self._copied(slot, tokens)
        if state is None:
            return False
        mark = mark_size = 0
        if checkpoint is not None:
            mark, mark_size = checkpoint.length, len(checkpoint.state)
            state = np.concatenate((state, checkpoint.state))
        tiers.save(
            tokens, n_prompt, state, partition, to_disk=to_disk, mark=mark, mark_size=mark_size
        )
        return True

    def restore(self, fetch: Fetch, slot: int, keep: int) -> bool:
        """Put a saved prefix into a slot, up to position ``keep``.

        Returns:
            False if that failed. The slot is empty then.
        """
        model, state = self._model, fetch.state
        model.forget(slot)
        began = time.monotonic()
        whole, checkpoint = (None, None) if state is None else fetch.prefix.parts(state)
        done = whole is not None and model.load_state(slot, whole)
        if done and state is not None and self.tiers is not None:
            self.tiers.worth.copied("load", len(state), time.monotonic() - began)
        if done and fetch.length < len(fetch.prefix.tokens):
            if checkpoint is not None and len(checkpoint):
                done = model.restore(slot, checkpoint, keep)
            else:
                done = model.cut(slot, keep)
        if not done:
            log.warning("a saved prefix of %d tokens cannot be restored", len(fetch.prefix.tokens))
            model.forget(slot)
            if self.tiers is not None:
                self.tiers.forget(fetch.prefix)
        return done

    def computed(self, tokens: int, seconds: float) -> None:
        """Learn from a step that computed only tokens of prompts."""
        if self.tiers is not None:
            self.tiers.worth.computed(tokens, seconds)

    def wait(self, seconds: float) -> None:
        """Wait for a state that is being read, if there is one."""
        if self.tiers is not None:
            self.tiers.wait(seconds)

    # --- while the worker is idle, and at its end ---------------------------------------------

    def pause(self, idle: IdleSlots) -> float | None:
        """Return after how many seconds without a request :meth:`write_one` has something to do;
        None if it has nothing to do."""
        if self.tiers is None or not self.tiers.on_disk:
            return None
        new = any(self._is_new(slot, tokens) for slot, tokens in idle)
        return _QUIET if new or self.tiers.unseen else None

    def write_one(self, idle: IdleSlots, checkpoints: Checkpoints, *, last: bool = False) -> bool:
        """Write what one idle slot holds to disk, the most recently used first; after all slots,
        what is only in memory.

        A worker that is killed then loses little. One at a time, because a request may come
        meanwhile.

        Args:
            idle: the idle slots.
            checkpoints: of them.
            last: whether the worker ends now. Then only slots are written.

        Returns:
            Whether there was such a slot.
        """
        tiers = self.tiers
        if tiers is None:
            return False
        for slot, tokens in reversed(list(idle)):
            if not self._is_new(slot, tokens):
                continue
            self._checked[slot] = tokens
            n_prompt, partition = idle.prompt_length(slot), idle.partition(slot)
            checkpoint = checkpoints.before_end(slot, tokens, n_prompt)
            size = self._size(slot, tokens, checkpoint)
            if not tiers.wants_on_disk(tokens, size, partition, last=last):
                continue
            if self._save(tiers, slot, tokens, n_prompt, partition, checkpoint, to_disk=True):
                return True
        if not last:
            tiers.write_one()
        return False

    def write_all(self, idle: IdleSlots, checkpoints: Checkpoints, until: float) -> None:
        """Write everything that is worth it, the slots first, until ``time.monotonic()`` has
        reached a value."""
        if self.tiers is None or not self.tiers.on_disk:
            return
        self._checked.clear()
        while time.monotonic() < until and self.write_one(idle, checkpoints, last=True):
            self.tiers.finish_writing(until)
        self.tiers.write_all(until)

    def _is_new(self, slot: int, tokens: TokenIds) -> bool:
        return len(tokens) > 0 and self._checked.get(slot) is not tokens

    def _size(self, slot: int, tokens: TokenIds, checkpoint: Checkpoint | None) -> int:
        """Return the bytes of a slot's state. llama.cpp needs no time to tell them for a slot that
        is not worth it anyway."""
        if self.tiers is None or not self.tiers.takes(tokens):
            return 0
        more = 0 if checkpoint is None else len(checkpoint.state)
        return self._model.state_size(slot) + more

    def _copied(self, slot: int, tokens: TokenIds) -> StateBytes | None:
        began = time.monotonic()
        if not self._model.carry_out_copies(slot, len(tokens)):
            return None
        try:
            state = self._model.save_state(slot)
        except MemoryError:
            return None
        if state is not None and self.tiers is not None:
            self.tiers.worth.copied("save", len(state), time.monotonic() - began)
        return state
