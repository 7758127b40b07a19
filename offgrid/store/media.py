"""The media of the import roots: mounted sticks and cards, and folders that the settings name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from offgrid.store.disk import largest_of
from offgrid.store.roots import Roots


@dataclass(frozen=True)
class Medium:
    """A place from which models are imported and to which they are exported. Sizes are in bytes.

    Attributes:
        path: its folder, with symbolic links resolved.
        size: of its file system; None if it does not tell.
        free: what this user may still write there; None likewise.
        file_system: such as ``vfat``; empty if it is unknown.
        largest_file: the largest file that it can hold; None if there is no limit.
        writable: whether this process may write to it.
    """

    path: Path
    size: int | None
    free: int | None
    file_system: str
    largest_file: int | None
    writable: bool


def media_of(roots: Roots) -> list[Medium]:
    """Return the media of the import roots, sorted by path.

    They are the file systems that are mounted at or below a root, and the roots that the settings
    name themselves. The places where systems mount sticks are none of them.
    """
    kinds = _mounts()
    real = roots.real()
    found = {path for path in kinds if any(path.is_relative_to(root) for root in real)}
    found.update(roots.named())
    return [_medium(path, kinds) for path in sorted(found)]


def _mounts() -> dict[Path, str]:
    """Return the kind of file system at each mount point; of several at one, the last."""
    mounts: dict[Path, str] = {}
    # Some systems do not list their file systems.
    with contextlib.suppress(OSError, RuntimeError):
        for partition in psutil.disk_partitions(all=True):
            mounts[Path(partition.mountpoint)] = partition.fstype.lower()
    return mounts


def _medium(path: Path, kinds: Mapping[Path, str]) -> Medium:
    kind = next((kinds[at] for at in (path, *path.parents) if at in kinds), "")
    size = free = None
    with contextlib.suppress(OSError):  # it was pulled just now
        usage = shutil.disk_usage(path)
        size, free = usage.total, usage.free
    writable = os.access(path, os.W_OK | os.X_OK)
    return Medium(path, size, free, kind, largest_of(kind), writable)
