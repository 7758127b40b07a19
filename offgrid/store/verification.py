"""Compares model files with the SHA-256 of their manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.disk import locked, mib
from offgrid.store.hashes import Hashes
from offgrid.store.names import MODELS_FOLDER, is_gguf, safe_path
from offgrid.store.partial import leftovers
from offgrid.store.progress import Report, silent
from offgrid.store.survey import folder_problem

State = Literal["ok", "damaged", "missing", "unlisted", "partial"]


@dataclass(frozen=True)
class Checked:
    """One file: its state, and why it has it."""

    state: State
    name: str
    reason: str = ""


def verify(
    folder: Path,
    *,
    update: bool = False,
    report: Report = silent,
    tell: Callable[[Checked], None] = lambda checked: None,
    hashes: Hashes | None = None,
) -> list[Checked]:
    """Hash all files that a folder's manifest lists; the folder may contain an export's folder.

    Args:
        update: record the present sizes and hashes of all files in the manifest.
        hashes: remembers the hashes. Every file is read: damage on a disk changes no times.

    Raises:
        TransferError: the folder or its manifest cannot be read, or without ``update`` there is no
            manifest.
    """
    hashes = hashes or Hashes(None)
    problem = folder_problem(folder)
    if problem is not None:
        raise TransferError(f"{folder} {problem}", "not_found")
    if not update:
        return _verify(folder, False, report, tell, hashes)
    with locked(folder):  # an import that adds to the manifest meanwhile would be forgotten
        return _verify(folder, True, report, tell, hashes)


def _verify(
    folder: Path,
    update: bool,
    report: Report,
    tell: Callable[[Checked], None],
    hashes: Hashes,
) -> list[Checked]:
    rows, faults = manifest.read(folder)
    if not rows and (folder / MODELS_FOLDER).is_dir():
        folder = folder / MODELS_FOLDER
        rows, faults = manifest.read(folder)
    if update and not rows and manifest.is_foreign(folder):
        raise TransferError(
            f"{folder / manifest.NAME}: belongs to another program; move it away first.", "invalid"
        )
    if not rows and not update:
        raise TransferError(
            f"{folder}: no {manifest.NAME} lists models there. 'offgrid verify --update' makes one "
            "from the files as they are now.",
            "invalid",
        )
    results = [Checked("damaged", manifest.NAME, fault) for fault in faults]
    for checked in results:
        tell(checked)
    files = _files(folder)
    present: list[manifest.Row] = []
    for name in sorted(rows.keys() | files):
        row = rows.get(name)
        checked, found = _check(folder, name, row, update, report, hashes)
        if found is not None:
            present.append(found)
        results.append(checked)
        tell(checked)
    for path, size in leftovers(folder):
        reason = f"{mib(size)} of an interrupted import; import again or delete it"
        results.append(Checked("partial", path.relative_to(folder).as_posix(), reason))
        tell(results[-1])
    if update:
        manifest.write(folder, present)
    return results


def _check(
    folder: Path,
    name: str,
    row: manifest.Row | None,
    update: bool,
    report: Report,
    hashes: Hashes,
) -> tuple[Checked, manifest.Row | None]:
    """Return the state of a file, and its row as it is now if its hash was computed."""
    path = folder / name
    if row is None and not update:
        reason = "manifest.json does not list it; 'offgrid verify --update' records it"
        return Checked("unlisted", name, reason), None
    try:
        size = path.stat().st_size
        if row is not None and row.size != size and not update:
            reason = f"it has {size} bytes, but manifest.json says {row.size}"
            return Checked("damaged", name, reason), None
        digest = hashes.get_or_compute(
            path, lambda done: report(name, "verifying", done, size), anew=True
        )
    except FileNotFoundError:
        return Checked("missing", name, "manifest.json lists it"), None
    except OSError as ex:
        return Checked("damaged", name, f"cannot be read ({ex.strerror or ex})"), None
    now = manifest.row(name, size, digest)
    if update or (row is not None and row.sha256 == digest):
        return Checked("ok", name, "recorded" if update and row != now else ""), now
    return Checked("damaged", name, f"its SHA-256 is {digest}"), now


def _files(folder: Path) -> set[str]:
    """Return the model files of a folder by their paths below it."""
    names = set()
    for where, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for file in files:
            name = Path(where, file).relative_to(folder).as_posix()
            if is_gguf(file) and safe_path(name) is not None:
                names.add(name)
    return names
