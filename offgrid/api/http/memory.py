"""Return the memory of large requests to the system after they have ended.

glibc keeps freed memory for later requests, in one arena for every few threads. Once a block of
many megabytes has been freed, later blocks of that size come from the arenas too. After a few large
bodies in several threads, a server would hold a gigabyte for ever. With other C libraries this
module does nothing.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence

PAUSES = (2.0, 30.0)
"""Seconds to wait after a large body before each return of memory; the second return is for
requests that took longer. Each takes milliseconds."""
_LARGE_BLOCK = 1 << 18
"""Size in bytes from which a block is mapped separately, and unmapped when it is freed."""
_ARENAS = 2
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_M_ARENA_MAX = -8


class Trimmer:
    """Returns free memory to the system some time after :meth:`tell`, in its own thread.

    Args:
        trim: returns free memory to the system.
        pauses: seconds to wait before each call of ``trim``. Calls of :meth:`tell` during the
            pauses count as one.
    """

    def __init__(self, trim: Callable[[], object], pauses: Sequence[float] = PAUSES) -> None:
        self._trim = trim
        self._pauses = pauses
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def tell(self) -> None:
        """Say that there may be memory to return. Does not wait."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="memory-trimmer", daemon=True
                )
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
    """Tell malloc to return large blocks at once. Call it before any thread starts."""
    if _library is not None:
        # Setting the threshold also stops glibc from raising it when large blocks are freed.
        _library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        _library.mallopt(_M_ARENA_MAX, _ARENAS)


def was_large() -> None:
    """Say that a request with a large body has been processed."""
    if _library is not None:
        _trimmer.tell()
