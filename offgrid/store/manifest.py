"""``manifest.json``: the models of a folder with their sizes and SHA-256.

::

    {"created_at": "2026-01-13T13:26:37+00:00", "version": "1.0", "total_models": 1,
     "total_size_gb": 3.8,
     "models": [{"file_name": "x.Q4_K_M.gguf", "model_id": "x.Q4_K_M", "quantization": "Q4_K_M",
                 "size": 4081004224, "sha256": "...hex..."}]}

``file_name`` is the path below the manifest's folder, with ``/``. A split model has one row per
part. The Go program of the same name writes and reads this format too; its ``model_id`` lacks the
quantisation, so the id is always derived from ``file_name`` here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path

import msgspec

from offgrid.errors import TransferError
from offgrid.store.digest import open_regular
from offgrid.store.disk import DISK, Disk, explained, mib
from offgrid.store.names import quantisation, safe_path, split_of, stem_of

NAME = "manifest.json"
DRAFT = ".new"
"""The ending of a hidden file that is being written."""
_VERSION = "1.0"
_LARGEST = 16 * 2**20
_MAX_ROWS = 10_000
_MAX_FAULTS = 10
"""Faults of a manifest that are named."""
_SHOWN = 200
"""Characters of a wrong name that are shown."""
_HEX = re.compile(r"[0-9a-f]{64}")


class Row(msgspec.Struct, frozen=True):
    """One file of a manifest; ``size`` in bytes."""

    file_name: str
    model_id: str
    quantization: str
    size: int
    sha256: str


class _RawRow(msgspec.Struct):
    file_name: str = ""
    filename: str = ""
    """The name of the field in signed manifests of the Go program."""
    size: int = -1
    sha256: str = ""


class _Raw(msgspec.Struct):
    models: list[msgspec.Raw]


class _Written(msgspec.Struct):
    created_at: str
    version: str
    total_models: int
    total_size_gb: float
    models: list[Row]


def row(file_name: str, size: int, sha256: str) -> Row:
    """Return the row of a file, which is named by its path below the manifest's folder."""
    split = split_of(file_name)
    model_id = f"{split[0]}-00001-of-{split[2]:05d}" if split else stem_of(file_name)
    return Row(file_name, model_id, quantisation(file_name), size, sha256)


def read(folder: Path) -> tuple[dict[str, Row], list[str]]:
    """Return the rows of a folder's manifest by file name, and what is wrong with other rows.

    Both are empty if the folder has no manifest, or its ``manifest.json`` lists no models (many
    programs write a file of that name).

    Raises:
        TransferError: the manifest exists and cannot be read, or is damaged.
    """
    path = folder / NAME
    rows: dict[str, Row] = {}
    faults = []
    contradictory = set()
    for number, given in enumerate(_listed(path) or []):
        entry = _row_of(given)
        if isinstance(entry, str):
            faults.append(f"{path}: models[{number}]: {entry}")
            continue
        if rows.setdefault(entry.file_name, entry) != entry:
            contradictory.add(entry.file_name)
    for name in sorted(contradictory):
        faults.append(f"{path}: lists {name!r} several times with different hashes or sizes")
        del rows[name]
    more = len(faults) - _MAX_FAULTS
    return rows, [*faults[:_MAX_FAULTS], *([f"{path}: {more} more faults"] if more > 0 else [])]


def _listed(path: Path) -> list[msgspec.Raw] | None:
    """Return what a manifest lists; None if there is none, or it is another program's file.

    Raises:
        TransferError: it cannot be read, is damaged, or lists too much.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as ex:
        raise TransferError(f"{path}: cannot be read ({ex.strerror or ex}).", "source") from None
    if len(data) > _LARGEST:
        raise TransferError(
            f"{path}: is larger than {mib(_LARGEST)}; no list of models is. Delete it to import "
            "the models without known hashes.",
            "source",
        )
    try:
        raw = msgspec.json.decode(data, type=_Raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        raise TransferError(
            f"{path}: is damaged ({ex}). Export the models again, or delete this file to import "
            "them without known hashes.",
            "source",
        ) from None
    if len(raw.models) > _MAX_ROWS:
        raise TransferError(
            f"{path}: lists {len(raw.models)} files; the maximum is {_MAX_ROWS}. Delete it to "
            "import the models without known hashes.",
            "source",
        )
    return raw.models


def _row_of(given: msgspec.Raw) -> Row | str:
    """Return a row of a manifest, or what is wrong with it."""
    try:
        entry = msgspec.json.decode(given, type=_RawRow)
    except msgspec.ValidationError as ex:
        return str(ex)
    name = (entry.file_name or entry.filename).replace("\\", "/")
    digest = entry.sha256.lower()
    if safe_path(name) is None:
        return f"file_name {name[:_SHOWN]!r} is not the path of a GGUF below its folder"
    if not _HEX.fullmatch(digest) or entry.size < 0:
        return f"{name!r} has no valid size and sha256"
    return row(name, entry.size, digest)


def write(folder: Path, rows: Iterable[Row], disk: Disk = DISK) -> None:
    """Write a folder's manifest; a kill leaves the old or the new one."""
    models = sorted(rows, key=lambda row: row.file_name)
    total = sum(row.size for row in models)
    text = _Written(
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=_VERSION,
        total_models=len({row.model_id for row in models}),
        total_size_gb=round(total / 1e9, 3),
        models=models,
    )
    data = msgspec.json.format(msgspec.json.encode(text), indent=1)
    write_whole(folder / NAME, data, disk)


def write_whole(path: Path, data: bytes, disk: Disk = DISK, mode: int = 0o666) -> None:
    """Write a small file; a kill leaves the old or the new one.

    Args:
        path: the file.
        data: its content.
        disk: the operations on files.
        mode: its permissions, of which the system takes away those that it never gives.
    """
    draft = path.with_name(f".{path.name.lstrip('.')}{DRAFT}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        # A link with the draft's name on a stick must not lead the data to another file.
        draft.unlink(missing_ok=True)
        with FileIO(os.open(draft, flags, mode), "wb") as file:
            disk.write(file, data)
            disk.sync(file)
        disk.replace(draft, path)
    except OSError as ex:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise explained(ex, path, len(data)) from None


def is_foreign(folder: Path) -> bool:
    """Return whether the ``manifest.json`` of a folder, which lists no valid file, is another
    program's.

    An empty list is ours: it is left when the last model is removed, or while it is replaced.

    Raises:
        TransferError: the manifest cannot be read, or is damaged.
    """
    path = folder / NAME
    return path.exists() and _listed(path) != []


def record(folder: Path, added: Iterable[Row], disk: Disk = DISK) -> None:
    """Add rows to the manifest of a models directory. The file of another program stays as it is.

    A damaged manifest stays too, because it may be another program's; ``offgrid verify`` names it.
    """
    try:
        rows, _ = read(folder)
        if not rows and is_foreign(folder):
            return
    except TransferError:
        return
    changed = rows | {row.file_name: row for row in added}
    if changed != rows:
        write(folder, changed.values(), disk)


def forget(folder: Path, names: Iterable[str], disk: Disk = DISK) -> None:
    """Remove files from the manifest of a models directory."""
    with contextlib.suppress(TransferError):
        rows, _ = read(folder)
        left = {name: row for name, row in rows.items() if name not in set(names)}
        if left != rows:
            write(folder, left.values(), disk)
