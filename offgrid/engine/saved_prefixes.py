"""The folder of saved prefixes on disk: names, sizes and deletion, for server and worker.

It has one folder for each model in each way of loading it, named by the key of that, and in it one
file for each saved prefix. :mod:`offgrid.engine.worker.cache.files` writes and reads the files.
Beside these folders, :mod:`offgrid.engine.worker.llama.remembered` keeps small files.
Only files with these names are ever deleted, whatever else the folder contains.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".prefix"
PARTIAL_SUFFIX = ".part"
CHOICE_SUFFIX, COSTS_SUFFIX = ".attention", ".costs"
_FORGOTTEN = "forgotten"
"""An empty file. Its time says when prefixes were last deleted on purpose."""
KEY_CHARACTERS = 32
_KEY = re.compile(rf"[0-9a-f]{{{KEY_CHARACTERS}}}")
_FILE = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}|\.[0-9a-f]+{re.escape(PARTIAL_SUFFIX)}")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file of the folder.

    Attributes:
        path: where it is.
        size: its bytes.
        used: when it was written or last read, in nanoseconds.
    """

    path: Path
    size: int
    used: int

    @property
    def partial(self) -> bool:
        """Whether it is being written, or was when its worker ended."""
        return self.path.name.startswith(".")


def saved_files(folder: Path) -> list[SavedFile]:
    """Return all files of saved prefixes, least recently used first."""
    return sorted(_files(folder), key=lambda file: file.used)


def saved_bytes(folder: Path) -> int:
    """Return how much of the disk the saved prefixes take, in bytes."""
    return sum(file.size for file in _files(folder))


def delete_saved(folder: Path) -> tuple[int, int]:
    """Delete all saved prefixes; return how many there were, and their bytes.

    Workers that run meanwhile see :func:`forgotten_at` and write nothing of what they held until
    then.

    Raises:
        OSError: a file cannot be deleted.
    """
    count = size = 0
    if folder.is_dir():
        stamp = folder / _FORGOTTEN
        stamp.touch(mode=0o600)
        now = time.time_ns()
        os.utime(stamp, ns=(now, max(now, forgotten_at(folder) + 1)))
    for file in saved_files(folder):
        with contextlib.suppress(FileNotFoundError):
            file.path.unlink()
            count += 1
            size += file.size
    for key in _key_folders(folder):
        with contextlib.suppress(OSError):
            key.rmdir()
    for suffix in (CHOICE_SUFFIX, COSTS_SUFFIX):
        for measured in folder.glob(f"*{suffix}"):
            with contextlib.suppress(OSError):
                measured.unlink()
    return count, size


def forgotten_at(folder: Path) -> int:
    """Return when prefixes were last deleted on purpose, in nanoseconds; 0 if never."""
    try:
        return (folder / _FORGOTTEN).stat().st_mtime_ns
    except OSError:
        return 0


def _key_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return [
                Path(entry.path)
                for entry in found
                if _KEY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _files(folder: Path) -> Iterator[SavedFile]:
    for key in _key_folders(folder):
        try:
            with os.scandir(key) as found:
                entries = [entry for entry in found if _FILE.fullmatch(entry.name)]
        except OSError:
            continue
        for entry in entries:
            # Another worker may delete it at this moment.
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield SavedFile(Path(entry.path), status.st_size, status.st_mtime_ns)
