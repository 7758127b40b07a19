"""The key of saved prefixes: everything that decides whether a state fits a context.

A state of another key is never read, so the key contains more than must be equal rather than less.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BEGINNING = 1 << 20
_SAMPLES, _SAMPLE = 64, 4096
_VERSION = 2
"""Of the meaning of a state. A change of what slots hold makes older files unreadable."""


def cache_key(
    files: Iterable[tuple[Path, str]],
    adapters: Iterable[tuple[Path, float]],
    context: Iterable[tuple[str, Any]],
    build: Iterable[str],
) -> bytes:
    """Return 32 bytes.

    Args:
        files: the parts of the model, each with its SHA-256 in hex, or an empty text if that is
            not known; see :func:`file_identity`.
        adapters: adapters with their scales, in the order in which they are applied.
        context: names and values of the parameters of the context.
        build: what identifies llama.cpp and how it computes.

    Raises:
        OSError: a file cannot be read.
    """
    parts = (
        _VERSION,
        sys.byteorder,
        [file_identity(path, sha256) for path, sha256 in files],
        [(file_identity(path), scale) for path, scale in adapters],
        sorted(context),
        list(build),
    )
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def file_identity(path: Path, sha256: str = "") -> tuple[Any, ...]:
    """Return what identifies the content of a file.

    Size, and a hash of the first MiB and of 64 samples of 4 KiB, evenly distributed; besides them
    the SHA-256, if it is known (``offgrid get``, ``import`` and ``verify`` compute it), or else the
    times of modification and change, of which no program can set the second. Computing the SHA-256
    at each load would read the whole file. The samples are there in both cases: a worker that is
    started again after a crash may find another file than the one whose hash the server knew.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        digest = hashlib.blake2b(stream.read(_BEGINNING), digest_size=32)
        for number in range(1, _SAMPLES + 1):
            stream.seek(max(0, status.st_size - _SAMPLE) * number // _SAMPLES)
            digest.update(stream.read(_SAMPLE))
    known = (sha256,) if sha256 else (status.st_mtime_ns, status.st_ctime_ns)
    return (*known, status.st_size, digest.hexdigest())
