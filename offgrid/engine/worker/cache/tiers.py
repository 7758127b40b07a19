"""The tiers after the slots: saved prefixes in the host's memory and on disk.

The loop calls :meth:`Tiers.find` and :meth:`Tiers.save`, which only move references. Reading,
writing and checking files takes place on two threads, one for each direction, so that no running
stream waits for a disk, and no reader for a writer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

from offgrid.engine.memory import free_memory
from offgrid.engine.worker.cache.files import PrefixFiles
from offgrid.engine.worker.cache.index import Index, SavedPrefix, StateBytes
from offgrid.engine.worker.cache.worth import MIN_LENGTH, Worth
from offgrid.engine.worker.prefix import TokenIds

_MOST_WRITING = 128 << 20
"""Bytes of states that wait to be written. One state may be larger."""
_GROWN = 4
"""A conversation is written again, while the worker is idle, when a fourth of it is new. So all its
files together have at most five times its size."""


_SMALL = 64 << 20
"""Bytes of a state for which there is always memory: at least so much is kept free."""


def has_room(size: int) -> bool:
    """Whether a state of so many bytes can be copied with the memory that is free now. The
    estimate of the model does not contain the copies that are written or read."""
    return size <= _SMALL or size <= free_memory()


class Fetch:
    """A saved prefix on its way to a slot.

    Attributes:
        prefix: the saved prefix.
        length: how many of its tokens are wanted.
        state: its state, once it is ready; None if there is none after all.
    """

    __slots__ = ("_done", "length", "prefix", "state")

    def __init__(self, prefix: SavedPrefix, length: int) -> None:
        self.prefix = prefix
        self.length = length
        self.state: StateBytes | None = None
        self._done = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether it has arrived, or is known to be lost."""
        return self._done.is_set()

    @property
    def lost(self) -> bool:
        """Whether its file turned out to be absent or wrong."""
        return self.ready and self.state is None

    def finish(self, state: StateBytes | None) -> None:
        """Note the state."""
        self.state = state
        self._done.set()

    def wait(self, seconds: float) -> None:
        """Wait until it is ready, but no longer than so many seconds."""
        self._done.wait(seconds)


class Tiers:
    """Saved prefixes of one model.

    Args:
        can_cut: whether a restored slot can be cut.
        memory: most bytes of states in memory; 0 for none.
        files: the disk tier, or None.
        worth: tells which copies pay.
    """

    def __init__(
        self, can_cut: bool, memory: int, files: PrefixFiles | None, worth: Worth | None = None
    ) -> None:
        self.worth = Worth() if worth is None else worth
        self._memory = memory
        self._files = files
        self._lock = threading.Lock()
        self._index = Index(can_cut)
        self._held = 0
        """Bytes of states in memory that are not being written."""
        self._writing = 0
        """Bytes of states that wait to be written, or are being written."""
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefix-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prefix-writer")
        self._fetches: list[Fetch] = []
        """Those that are still being read."""
        for prefix in files.scan() if files is not None else ():
            self._index.add(prefix)

    @property
    def on_disk(self) -> bool:
        """Whether there is a disk tier."""
        return self._files is not None

    @property
    def held_bytes(self) -> int:
        """Bytes of all states in memory."""
        return self._held + self._writing

    def close(self) -> None:
        """End the threads; what was not written is lost."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    # --- restoring ----------------------------------------------------------------------------

    def find(
        self,
        prompt: TokenIds,
        before_image: Callable[[int], int],
        above: int,
        partition: str = "",
    ) -> Fetch | None:
        """Begin to fetch the longest saved prefix of a prompt.

        Args:
            prompt: the tokens that may be taken from it.
            before_image: shortens a length so that it does not end inside an image.
            above: how many of the tokens need not be computed anyway.
            partition: of the prompt's sequence.

        Returns:
            None if no saved prefix is worth restoring.
        """
        with self._lock:
            prefix, length = self._index.longest(prompt, before_image, partition)
            if prefix is None:
                return None
            from_disk = prefix.state is None
            if not self.worth.restoring(length - above, prefix.size, from_disk=from_disk):
                return None
            if from_disk and not has_room(prefix.size):
                return None
            self._index.use(prefix)
            fetch = Fetch(prefix, length)
            if prefix.state is not None:
                fetch.finish(prefix.state)
                return fetch
            self._fetches.append(fetch)
        self._reader.submit(self._read, fetch)
        return fetch

    def wait(self, seconds: float) -> None:
        """Wait until some fetch has arrived, but no longer than so many seconds; return at once if
        none is on its way."""
        with self._lock:
            waiting = self._fetches[:1]
        for fetch in waiting:
            fetch.wait(seconds)

    def _read(self, fetch: Fetch) -> None:
        state = None
        try:
            began = time.monotonic()
            if self._files is not None:
                state = self._files.read(fetch.prefix)
            if state is None:
                with self._lock:
                    self._discard(fetch.prefix)
            else:
                self.worth.copied("read", len(state), time.monotonic() - began)
        finally:
            fetch.finish(state)
            with self._lock:  # no sequence waits for it any more, and its state is large
                self._fetches.remove(fetch)

    def forget(self, prefix: SavedPrefix) -> None:
        """Discard a saved prefix and its file, because it cannot be restored."""
        with self._lock:
            self._discard(prefix)
        if self._files is not None:
            self._files.delete(prefix)

    # --- saving -------------------------------------------------------------------------------

    def wants(self, tokens: TokenIds, size: int, partition: str = "") -> bool:
        """Whether the state of a slot is worth saving before the slot is evicted.

        Args:
            tokens: what the slot holds.
            size: bytes of its state.
            partition: of these tokens.
        """
        if not self.takes(tokens) or not (size <= self._memory or self.on_disk):
            return False
        with self._lock:
            unsaved = len(tokens) - self._index.covered(tokens, partition)
        return self.worth.saving(len(tokens), unsaved, size) and has_room(size)

    def wants_on_disk(
        self, tokens: TokenIds, size: int, partition: str = "", *, last: bool = False
    ) -> bool:
        """Whether the state of a slot is worth writing while the slot still holds it.

        Args:
            tokens: what the slot holds.
            size: bytes of its state.
            partition: of these tokens.
            last: whether the worker ends now, so that there is no later time for it.
        """
        if not self.on_disk or not self.takes(tokens):
            return False
        with self._lock:
            unsaved = len(tokens) - self._index.covered(tokens, partition, on_disk=True)
            if not last and not self._grown(tokens, partition):
                return False
        return self.worth.saving(len(tokens), unsaved, size) and has_room(size)

    @staticmethod
    def takes(tokens: TokenIds) -> bool:
        """Whether such tokens can be saved: a prefix with an image is not."""
        return len(tokens) >= MIN_LENGTH and int(tokens.min()) >= 0

    def save(
        self,
        tokens: TokenIds,
        n_prompt: int,
        state: StateBytes,
        partition: str = "",
        *,
        to_disk: bool = False,
        mark: int = 0,
        mark_size: int = 0,
    ) -> SavedPrefix:
        """Save a state, and make room for it.

        Args:
            tokens: what the slot holds.
            n_prompt: how many of them are the prompt.
            state: the slot's state, and after it the checkpoint of the mark.
            partition: of these tokens.
            to_disk: whether it goes to disk at once, because the slot still holds it.
            mark: see :class:`~offgrid.engine.worker.cache.index.SavedPrefix`.
            mark_size: bytes of the checkpoint.
        """
        prefix = SavedPrefix(
            tokens.copy(), n_prompt, len(state), state, mark=mark, mark_size=mark_size
        )
        prefix.partition = partition
        with self._lock:
            for other in self._index.superseded(prefix):
                if other.path is None and not other.writing:
                    self._discard(other)
                else:  # its file stays until this one is written
                    self._drop_state(other)
            self._index.add(prefix)
            self._held += prefix.size
            if to_disk or prefix.size > self._memory:
                self._to_disk(prefix)
            self._make_room()
        return prefix

    def _make_room(self) -> None:
        """Move the least recently used states from memory to disk, until the others fit."""
        for prefix in self._index:
            if self._held <= self._memory:
                return
            if prefix.state is None or prefix.writing:
                continue
            if prefix.path is not None:
                self._drop_state(prefix)
            else:
                self._to_disk(prefix)

    def _to_disk(self, prefix: SavedPrefix, *, keep: bool = False) -> Future[None] | None:
        """Have a state written. Afterwards it is not in memory any more, or with ``keep`` only if
        there is still room for it."""
        full = self._writing > 0 and self._writing + prefix.size > _MOST_WRITING
        if self._files is None or full:
            self._discard(prefix)
            return None
        prefix.writing = True
        self._held -= prefix.size
        self._writing += prefix.size
        return self._writer.submit(self._write, prefix, keep)

    def _write(self, prefix: SavedPrefix, keep: bool) -> None:
        path, state = None, prefix.state
        try:
            if self._files is not None and state is not None and prefix in self._index:
                path = self._files.write(prefix, state)
        finally:
            with self._lock:
                self._writing -= prefix.size
                prefix.writing, prefix.path = False, path
                fits = self._held + prefix.size <= self._memory
                if keep and fits and prefix in self._index:
                    self._held += prefix.size
                else:
                    prefix.state = None
                useless = self._after_write(prefix)
            for other in useless:
                if self._files is not None and (other is prefix or other.path != path):
                    self._files.delete(other)

    def _after_write(self, prefix: SavedPrefix) -> list[SavedPrefix]:
        """Remove what is useless now from the index; return the prefixes whose files are."""
        if prefix.path is None:
            if prefix.state is None:
                self._index.remove(prefix)
            return []
        if prefix not in self._index:  # discarded while it was being written
            return [prefix]
        useless = [one for one in self._index.superseded(prefix) if one.path is not None]
        for one in useless:
            self._discard(one)
        return useless

    def _drop_state(self, prefix: SavedPrefix) -> None:
        """Free the state of a prefix that has a file, or is getting one."""
        if prefix.state is not None and not prefix.writing:
            self._held -= prefix.size
            prefix.state = None

    def _discard(self, prefix: SavedPrefix) -> None:
        if prefix in self._index:
            self._index.remove(prefix)
            self._drop_state(prefix)

    def obey(self) -> bool:
        """If somebody has deleted the prefixes on disk, discard those in memory too; return whether
        that is so. Then what slots hold must not be saved either."""
        if self._files is None:
            return False
        with self._lock:  # so that the writer sees all of it or nothing
            if not self._files.forgotten:
                return False
            for prefix in self._index:
                self._discard(prefix)
        return True

    # --- while the worker is idle, and at its end ---------------------------------------------

    @property
    def unseen(self) -> bool:
        """Whether :meth:`write_one` has something to do."""
        with self._lock:
            return self.on_disk and any(map(_is_unseen, self._index))

    def write_one(self) -> None:
        """Have the most recently used state written that is only in memory, if that is worth it.
        It stays in memory too."""
        with self._lock:
            left = [prefix for prefix in self._index if _is_unseen(prefix)]
            if not left or self._writing:
                return
            left[-1].seen = True
            if self._grown(left[-1].tokens, left[-1].partition):
                self._to_disk(left[-1], keep=True)

    def _grown(self, tokens: TokenIds, partition: str) -> bool:
        """Whether enough of a conversation is new to write it again while the worker is idle."""
        unsaved = len(tokens) - self._index.covered(tokens, partition, on_disk=True)
        return unsaved >= max(MIN_LENGTH, len(tokens) // _GROWN)

    def write_all(self, until: float) -> None:
        """Write the states that are only in memory, the most recently used first.

        Args:
            until: ``time.monotonic()`` after which no further one is begun, and none waited for.
        """
        with self._lock:
            left = [one for one in self._index if one.state is not None and one.path is None]
        for prefix in reversed(left):
            with self._lock:
                if time.monotonic() > until:
                    return
                # Others may have been written, or discarded, since this began.
                waiting = self._to_disk(prefix) if _is_only_in_memory(prefix) else None
            if waiting is not None:
                with contextlib.suppress(FutureTimeout):
                    waiting.result(max(0.0, until - time.monotonic()))
        self.finish_writing(until)

    def finish_writing(self, until: float) -> None:
        """Wait until everything is written that waits for it, but no longer than ``until``."""
        with contextlib.suppress(FutureTimeout):
            self._writer.submit(lambda: None).result(max(0.0, until - time.monotonic()))


def _is_only_in_memory(prefix: SavedPrefix) -> bool:
    return prefix.state is not None and prefix.path is None and not prefix.writing


def _is_unseen(prefix: SavedPrefix) -> bool:
    return _is_only_in_memory(prefix) and not prefix.seen
