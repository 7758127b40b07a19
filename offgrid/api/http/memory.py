"""Memory that large requests leave behind, given back to the system.

glibc keeps what is freed for the next request: in an arena for every few threads, and it takes
blocks of many megabytes into them once one such block has been freed. After a few large bodies in
several threads a server would hold a gigabyte for ever. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence

PAUSES = (2.0, 30.0)
"""Seconds after a large body until memory is given back, and again for requests that took longer.
It takes milliseconds."""
_LARGE_BLOCK = 1 << 18
"""Bytes of a block that is asked of the system, and goes back to it, by itself."""
_ARENAS = 2
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_M_ARENA_MAX = -8


class Trimmer:
    """Gives memory back some time after it is told that there may be some, in its own thread.

    Args:
        trim: gives back what is free.
        pauses: seconds to wait before it does so, each time; all that is told meanwhile is one.
    """

    def __init__(self, trim: Callable[[], object], pauses: Sequence[float] = PAUSES) -> None:
        self._trim = trim
        self._pauses = pauses
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def tell(self) -> None:
        """Say that there may be memory to give back; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
                self._thread.start()
        self._told.set()

    def _run(self) -> None:
        while self._told.wait():
            self._told.clear()
            for pause in self._pauses:
                time.sleep(pause)
                self._trim()


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.malloc_trim, library.mallopt  # noqa: B018
    except (OSError, AttributeError, TypeError):  # Windows has no library without a name
        return None
    return library


_library = _glibc()


def _trim() -> None:
    if _library is not None:
        _library.malloc_trim(0)


_trimmer = Trimmer(_trim)


def keep_little() -> None:
    """Tell malloc to give large blocks back at once. Before threads are there."""
    if _library is not None:
        # Set by hand, the threshold does not grow with what is freed.
        _library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        _library.mallopt(_M_ARENA_MAX, _ARENAS)


def was_large() -> None:
    """Say that a large body has been dealt with."""
    if _library is not None:
        _trimmer.tell()
