"""Partial files: the hidden files in which a copy grows before the model has its name.

``.NAME.part`` beside the target holds the bytes. Its journal, ``.NAME.part.json``, says up to which
byte they are on the disk, and the hash up to there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import msgspec

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.disk import Disk, explained

_MAX_DEPTH = 4


class Journal(msgspec.Struct):
    """What an import has copied: ``done`` of ``size`` bytes, with the SHA-256 ``sha256``.

    ``expected`` is the known SHA-256 of the whole file, or empty.
    """

    size: int
    expected: str
    done: int
    sha256: str


def partial_path(target: Path) -> Path:
    """Return the path of a target's partial file."""
    return target.with_name(f".{short(target.name)}.part")


def journal_path(target: Path) -> Path:
    """Return the path of a target's journal."""
    return target.with_name(f".{short(target.name)}.part.json")


def short(name: str) -> str:
    """Return a name that leaves room for an ending; file systems allow 255 bytes."""
    if len(name.encode(errors="surrogateescape")) <= 230:
        return name
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def open_partial(target: Path, size: int) -> FileIO:
    """Open the partial file of a target, which gets ``size`` bytes, for reading and writing.

    Raises:
        TransferError: the file or its folder cannot be made.
    """
    path = partial_path(target)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # A link or pipe with this name is not ours.
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                path.unlink()
        return FileIO(os.open(path, flags, 0o666), "r+b")
    except OSError as ex:
        raise explained(ex, path if os.path.lexists(path) else target, size) from None


def read_journal(target: Path) -> Journal | None:
    """Return a target's journal; None if there is none that can be used."""
    try:
        return msgspec.json.decode(journal_path(target).read_bytes(), type=Journal)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write_journal(target: Path, journal: Journal, disk: Disk) -> None:
    """Write a target's journal; the bytes that it counts are on the disk.

    Raises:
        TransferError: it cannot be written.
    """
    manifest.write_whole(journal_path(target), msgspec.json.encode(journal), disk)


def drop(target: Path, disk: Disk) -> None:
    """Remove the partial file of a target and its journal, if the disk allows it."""
    with contextlib.suppress(OSError):
        disk.remove(journal_path(target))
        disk.remove(partial_path(target))


def note_if_possible(file: FileIO, target: Path, journal: Journal, disk: Disk) -> None:
    """Let the next import continue here, after an error that matters more than one here."""
    with contextlib.suppress(OSError, TransferError):
        file.truncate(journal.done)
        disk.sync(file)
        write_journal(target, journal, disk)


def leftovers(models_dir: Path) -> list[tuple[Path, int]]:
    """Return the partial files of interrupted imports with their sizes in bytes."""
    found = []
    for path in hidden(models_dir, ".part"):
        with contextlib.suppress(OSError):
            found.append((path, path.lstat().st_size))
    return found


def hidden(models_dir: Path, ending: str) -> Iterator[Path]:
    """Yield the hidden files of a models directory that have an ending."""
    for folder, subfolders, names in os.walk(models_dir, topdown=True):
        if len(Path(folder).relative_to(models_dir).parts) >= _MAX_DEPTH:
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, n) for n in sorted(names) if n[0] == "." and n.endswith(ending))
