"""SHA-256 of files, computed in a thread while the next blocks are read or written."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Protocol

BLOCK = 2**20
"""Bytes that are read, written or hashed in one call, without the GIL."""
_AHEAD = 4
"""Blocks that may wait for the hash."""
KEPT = _AHEAD + 1


class Readable(Protocol):
    """Reads bytes into a buffer."""

    def readinto(self, buffer: bytearray, /) -> int | None:
        """Return how many bytes were read; 0 at the end."""


class Blocks:
    """Buffers for blocks, used in turn: new memory for each block costs as much as its copy."""

    def __init__(self) -> None:
        self._buffers = itertools.cycle([bytearray(BLOCK) for _ in range(KEPT + 1)])

    def read(self, file: Readable, most: int = BLOCK) -> memoryview:
        """Return the next bytes of a file, at most ``most``; none at the end.

        They stay as they are until :data:`KEPT` more blocks are read.

        Raises:
            OSError: the file cannot be read.
        """
        buffer = next(self._buffers)
        if most < len(buffer):
            buffer = bytearray(most)
        return memoryview(buffer)[: file.readinto(buffer) or 0]


class Digest:
    """SHA-256 of blocks. Used by one thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes of all blocks."""
        self._waiting: deque[Future[None]] = deque()

    def update(self, data: bytes | memoryview) -> None:
        """Add a block, which must not change until :data:`KEPT` more are added.

        Waits if too many blocks wait already.
        """
        self._waiting.append(self._pool.submit(self._hash.update, data))
        self.size += len(data)
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def plain(self) -> hashlib._Hash:
        """Return a copy of the hash of all blocks so far."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.copy()

    def hexdigest(self) -> str:
        """Return the hash of all blocks so far, in lower-case hex."""
        return self.plain().hexdigest()


@contextlib.contextmanager
def hashing() -> Iterator[ThreadPoolExecutor]:
    """Provide the thread of a :class:`Digest`."""
    with ThreadPoolExecutor(1, thread_name_prefix="transfer-hash") as pool:
        yield pool


def open_regular(path: Path, *, follow: bool = True) -> FileIO:
    """Open a file for reading; never wait for a pipe or device that has its name.

    Args:
        follow: whether the path may be a symbolic link.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    file = FileIO(os.open(path, flags), "rb")
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
    except BaseException:
        file.close()
        raise
    return file


def hashed(path: Path) -> Iterator[tuple[int, str]]:
    """Hash a file; yield after each block how many bytes were read and an empty text, and at last
    the size of the file and its SHA-256 in lower-case hex.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file, hashing() as pool:
        digest, blocks = Digest(pool), Blocks()
        while block := blocks.read(file):
            digest.update(block)
            yield digest.size, ""
        yield digest.size, digest.hexdigest()


def hash_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in lower-case hex; ``report`` hears how many bytes are read.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    found = ""
    for done, found in hashed(path):
        if report is not None and not found:
            report(done)
    return found
