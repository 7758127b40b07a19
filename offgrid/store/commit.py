"""Gives complete partial files their names, so that a kill between two renames mixes no models.

A single file is renamed. Before the parts of a split model are renamed, a commit file lists them;
the old first part is removed, and the new first part gets its name last: a split model is visible
through its first part only. :func:`recover` finishes the renames that a kill interrupted, without
the source.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from offgrid.store import manifest
from offgrid.store.digest import hash_of
from offgrid.store.disk import DISK, Disk, explained
from offgrid.store.names import split_of
from offgrid.store.partial import hidden, journal_path, partial_path, short

_COMMIT = ".commit"


class _CommitFile(msgspec.Struct):
    files: dict[str, str]
    """SHA-256 by name, in the order of the renames."""


@dataclass(frozen=True)
class FullFile:
    """A complete and verified partial file."""

    target: Path
    sha256: str


def commit(files: Sequence[FullFile], disk: Disk = DISK) -> None:
    """Rename complete partial files to their targets; those of one folder if there are several.

    Raises:
        TransferError: a rename fails.
    """
    first = files[0].target
    try:
        if len(files) == 1:
            disk.replace(partial_path(first), first)
            disk.remove(journal_path(first))
            return
        # The first part makes a split model visible, so its name comes last.
        ordered = sorted(files, key=lambda f: (split_of(f.target.name) or ("", 0, 0))[1] == 1)
        names = {file.target.name: file.sha256 for file in ordered}
        path = first.with_name(f".{short(first.name)}{_COMMIT}")
        manifest.write_whole(path, msgspec.json.encode(_CommitFile(names)), disk)
        _finish(path, list(names), disk)
    except OSError as ex:
        raise explained(ex, first, 0) from None


def _finish(path: Path, names: Sequence[str], disk: Disk) -> None:
    """Do the renames of a commit file that are not done, then remove it."""
    left = [path.with_name(name) for name in names if partial_path(path.with_name(name)).exists()]
    last = path.with_name(names[-1])
    if last in left:
        disk.remove(last)
        disk.sync_folder(path.parent)
    for target in left:
        disk.replace(partial_path(target), target)
    for name in names:
        disk.remove(journal_path(path.with_name(name)))
    disk.remove(path)


def recover(models_dir: Path, disk: Disk = DISK) -> list[str]:
    """Finish the renames of split models that a kill interrupted; return the first parts' names.

    The partial files are hashed again. If one is damaged, none of the rest is renamed.
    """
    finished = []
    for path in hidden(models_dir, manifest.DRAFT):
        with contextlib.suppress(OSError):
            disk.remove(path)
    for path in hidden(models_dir, _COMMIT):
        try:
            names = msgspec.json.decode(path.read_bytes(), type=_CommitFile).files
            if names and all(_verified(path, name, digest) for name, digest in names.items()):
                _finish(path, list(names), disk)
                finished.append(list(names)[-1])
            else:
                disk.remove(path)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            with contextlib.suppress(OSError):
                disk.remove(path)
    return finished


def _verified(commit_file: Path, name: str, digest: str) -> bool:
    """Return whether a partial file is whole, or was renamed already."""
    if split_of(name) is None or "/" in name or "\\" in name or "\0" in name:
        return False
    target = commit_file.with_name(name)
    try:
        return hash_of(partial_path(target)) == digest
    except FileNotFoundError:
        return target.exists()
