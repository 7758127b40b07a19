"""Writes a backup while a server runs. A kill at any moment leaves the old archive or the new one.

:mod:`offgrid.store.backup_parts` describes the archive, :mod:`offgrid.store.restore` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import msgspec

from offgrid import __version__
from offgrid.config import Settings
from offgrid.errors import ConfigError, TransferError
from offgrid.store.backup_filters import Found, copy_filters
from offgrid.store.backup_parts import (
    FORMAT,
    KEYS,
    MANIFEST,
    PARTS,
    VERSION,
    File,
    Manifest,
    check_database,
    config_files,
    copy_database,
    opened,
    undo_interrupted,
)
from offgrid.store.catalogue import Catalogue
from offgrid.store.disk import DISK, Disk, explained

_DRAFT, _PARTS = ".new", ".parts"


@dataclass
class Written:
    """What a backup contains.

    Attributes:
        files: the files with their sizes and hashes.
        absent: files of the server that do not exist yet.
        elsewhere: chat templates that the configuration names and that are not in the backup.
        without_filter: paths of content filters that do not exist, each with what names it.
        size: bytes of the archive.
    """

    files: list[File] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    elsewhere: list[Path] = field(default_factory=list)
    without_filter: dict[str, str] = field(default_factory=dict)
    size: int = 0


def write_backup(
    target: Path, settings: Settings, config: Path | None, disk: Disk = DISK
) -> Written:
    """Write keys, history, configuration and filters into one file, readable only by its owner.

    Args:
        target: the archive. An earlier backup of this name is replaced at the end.
        settings: where the files are.
        config: the configuration file in use; None if there is none.

    Raises:
        TransferError: a file cannot be read or is damaged, or the archive cannot be written.
    """
    if target.exists() and not _is_backup(target):
        raise TransferError(f"{target}: is not a backup; choose another name.", "different")
    written = Written()
    draft = target.with_name(f".{target.name}{_DRAFT}")
    try:
        with _empty_folder(target.with_name(f".{target.name}{_PARTS}")) as folder:
            sources = dict(_snapshots(folder, settings, written))
            filters = copy_filters(folder, settings, sources.get(KEYS))
            written.without_filter = filters.absent
            named, written.elsewhere = config_files(settings, config)
            draft.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with FileIO(os.open(draft, flags, 0o600), "r+b") as file:
                members = {**sources, **named, **filters.members}
                _fill(file, members, settings, config, filters, written)
                disk.sync(file)
        written.size = draft.stat().st_size
        disk.replace(draft, target)
    except OSError as ex:
        raise explained(ex, target, 0) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return written


@contextlib.contextmanager
def _empty_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that only its owner can read, and remove it; also what a kill has left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_backup(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return msgspec.json.decode(archive.read(MANIFEST), type=Manifest).format == FORMAT
    except (OSError, KeyError, zipfile.BadZipFile, msgspec.MsgspecError, RuntimeError):
        return path.is_file() and not path.stat().st_size


def _snapshots(folder: Path, settings: Settings, written: Written) -> Iterable[tuple[str, Path]]:
    """Yield the files of the server by name in the archive, as they are at one moment each."""
    for part in PARTS:
        path = part.path(settings)
        if path is None:
            continue
        if not path.exists():
            written.absent.append(path)
            continue
        copy = folder / part.name
        copy.parent.mkdir(mode=0o700, exist_ok=True)
        if part.is_database:
            snapshot(path, copy)
        else:
            copy.touch(0o600)
            with _open_source(path) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        yield part.name, copy


def _open_source(path: Path) -> BinaryIO:
    """Open a file that belongs into the backup.

    Raises:
        TransferError: it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as ex:
        raise TransferError(
            f"{path}: cannot be read ({ex.strerror or ex}). Make the backup as the user of the "
            "server.",
            "source",
        ) from None


def snapshot(path: Path, copy: Path) -> None:
    """Copy an SQLite file that other processes may use into a new file, readable by its owner.

    Raises:
        TransferError: it is locked for too long, damaged, or not readable.
    """
    copy.touch(0o600)
    undo_interrupted(path)
    try:
        with opened(path) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            copy_database(source, target)
            # Otherwise each reader of the copy would make two more files beside it.
            target.execute("PRAGMA journal_mode = DELETE")
        fault = check_database(copy)
    except sqlite3.Error as ex:
        if "full" in str(ex):
            raise TransferError(
                f"{copy.parent}: the disk is full. Free as much as {path} takes and try again.",
                "disk_full",
            ) from None
        fault = str(ex)
    if fault is None:
        return
    if "locked" in fault:
        raise TransferError(f"{path}: another program has locked it; try again.", "busy")
    raise TransferError(
        f"{path}: cannot be read ({fault}). If it is damaged, a server sets it aside at its next "
        "use; then make the backup.",
        "source",
    )


def _models(settings: Settings) -> tuple[str, ...]:
    """Return the ids of the models on this machine, so that a restore can name missing ones."""
    with contextlib.suppress(ConfigError, OSError):
        return tuple(entry.id for entry in Catalogue.of_files(settings).entries())
    return ()


def _fill(
    file: FileIO,
    sources: dict[str, Path],
    settings: Settings,
    config: Path | None,
    filters: Found,
    written: Written,
) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sources.items():
            written.files.append(_add(archive, name, path))
        manifest = Manifest(
            FORMAT,
            VERSION,
            __version__,
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            tuple(written.files),
            _models(settings),
            filters.named,
            settings.filter_file,
            "" if config is None else str(config.absolute().parent),
        )
        archive.writestr(_member(MANIFEST), msgspec.json.encode(manifest))


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    with _open_source(path) as source, archive.open(_member(name), "w", force_zip64=True) as target:
        while block := source.read(1 << 20):
            digest.update(block)
            size += len(block)
            target.write(block)
    return File(name, size, digest.hexdigest())


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # with the same date always
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o600 << 16
    return member
