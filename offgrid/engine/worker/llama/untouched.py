"""Gives memory back to the system that llama.cpp has filled with zeros and not used yet.

llama.cpp writes zeros to the whole cache of keys and values when it creates a context, so the
system has to provide memory for the full contexts of all slots at once. Pages of zeros can be given
back: the system provides an empty page again when one is touched. So a slot takes memory as it
fills.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np

Ranges = list[tuple[int, int]]
"""Ranges of addresses, ascending: the first one and the one after the last."""

_MAPS, _PAGEMAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_BLOCK = 1 << 16
"""Bytes that are looked at together."""
_LEAST = 1 << 20
"""Bytes of zeros that are given back at least. Caches are larger; other memory rarely has so many
zeros in a row."""
_DONT_NEED = 4
"""``MADV_DONTNEED`` on Linux."""
_libc: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def writable() -> Ranges:
    """Return the memory of this process that belongs to no file, without heap and stack; nothing on
    systems other than Linux."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        lines = _MAPS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    # 7f18f465a000-7f192a3b3000 rw-p 00000000 00:00 0 [name]
    fields = [line.split() for line in lines]
    return [
        (int(first, 16), int(after, 16))
        for first, _, after in (one[0].partition("-") for one in fields if _anonymous(one))
    ]


def _anonymous(fields: list[str]) -> bool:
    return len(fields) == 5 and fields[1] == "rw-p" and fields[4] == "0"


def give_back_zeros(before: Ranges) -> int:
    """Give back long runs of zeros in memory that was not mapped before.

    No other thread may write to that memory meanwhile.

    Args:
        before: the result of :func:`writable` before llama.cpp allocated the memory.

    Returns:
        How many bytes were given back.
    """
    given = 0
    for first, after in added(before, writable()):
        for start, end in _runs_of_zeros(first, after):
            if _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED) == 0:
                given += end - start
    return given


def added(before: Ranges, now: Ranges) -> Iterator[tuple[int, int]]:
    """Yield the parts of ``now`` that are in none of the ranges ``before``. The system joins
    neighbouring ranges, so an old one may be a part of a new one."""
    for first, after in now:
        for start, end in before:
            if end <= first or start >= after:
                continue
            if first < start:
                yield first, start
            first = end
        if first < after:
            yield first, after


def trim_heap() -> None:
    """Give back what is free on the heap, if the C library can do it (``malloc_trim`` of glibc).

    Worth it after much was freed: loading a vocabulary of 262,144 tokens leaves 13 MiB.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def _runs_of_zeros(first: int, after: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks that are in memory and contain zeros only."""
    first += -first % _BLOCK
    after -= after % _BLOCK
    start = first
    for block, present in zip(range(first, after, _BLOCK), _present(first, after), strict=False):
        if not present or not _is_zero(block):
            if block - start >= _LEAST:
                yield start, block
            start = block + _BLOCK
    if after - start >= _LEAST:
        yield start, after


def _present(first: int, after: int) -> list[bool]:
    """Return for each block whether its first page is in memory: reading others takes time, and the
    buffer for computing may be as large as the cache."""
    count = max(0, after - first) // PAGESIZE
    try:
        with _PAGEMAP.open("rb", buffering=0) as pages:
            pages.seek(first // PAGESIZE * 8)
            entries = np.frombuffer(pages.read(8 * count), dtype=np.uint64)
    except OSError:
        entries = np.empty(0, dtype=np.uint64)
    if len(entries) < count:
        return [True] * (count * PAGESIZE // _BLOCK)
    found: list[bool] = (entries[:: _BLOCK // PAGESIZE] >> np.uint64(63) == 1).tolist()
    return found


def _is_zero(block: int) -> bool:
    """Whether a block begins with zeros and each byte of it equals the one eight bytes later."""
    if ctypes.c_uint64.from_address(block).value:
        return False
    size = ctypes.c_size_t(_BLOCK - 8)
    return bool(_libc.memcmp(ctypes.c_void_p(block), ctypes.c_void_p(block + 8), size) == 0)
