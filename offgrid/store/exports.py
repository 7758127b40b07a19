"""Exports models to sticks and folders, in the layout that an import reads.

::

    DEST/README.txt                       what this is and how to import it
    DEST/offgrid-models/manifest.json     size and SHA-256 of every file
    DEST/offgrid-models/<id>.gguf         models, all parts of split models, projectors
    DEST/offgrid.toml                     with the configuration, if it was asked for

Files are placed with the same care as in an import (:mod:`offgrid.store.transfer`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.catalogue import match, nearest
from offgrid.store.commit import recover
from offgrid.store.disk import DISK, Disk, explained, locked
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome, Status
from offgrid.store.names import (
    MODELS_FOLDER,
    is_projector,
    projector_beside,
    safe_path,
    split_of,
    stem_of,
)
from offgrid.store.progress import Report, silent
from offgrid.store.sources import Group, Item, file_source
from offgrid.store.survey import ModelEntry, listed
from offgrid.store.transfer import Placer

CONFIG = "offgrid.toml"
_README = """\
Models for OffGrid LLM
======================

The folder offgrid-models contains language models (.gguf) and manifest.json with the size and the
SHA-256 of each file. On a machine with OffGrid LLM, this command verifies them and copies them:

    offgrid import PATH_OF_THIS_FOLDER

"offgrid verify PATH_OF_THIS_FOLDER" only checks whether the files are undamaged.

If this folder contains install.sh and install.bat, a machine without OffGrid LLM needs only Python,
and no network: "sh install.sh" (on Windows: install.bat) installs OffGrid LLM and the models.
"""


def chosen(
    entries: Sequence[ModelEntry], names: Iterable[str], *, beginnings: bool = True
) -> list[ModelEntry]:
    """Return the entries that names mean; letter case and a ``.gguf`` at the end do not matter.

    Args:
        beginnings: whether a name may be the beginning of an id, if no other id begins like it.

    Raises:
        TransferError: a name means no model, or several; the message lists the ids.
    """
    by_id = {entry.id: entry for entry in entries}
    found: dict[str, ModelEntry] = {}
    for name in names:
        entry = match(name, by_id)
        if entry is None or not (beginnings or _same(entry.id, name)):
            whole = "" if entry is None else "only a beginning is given; "
            ids = listed(nearest(name, by_id)) or "none"
            raise TransferError(f"no model {name!r}; {whole}the ids are: {ids}", "not_found")
        found[entry.id] = entry
    return [*found.values()]


def _same(model_id: str, name: str) -> bool:
    return stem_of(name).casefold() == model_id.casefold()


def files_of(entry: ModelEntry, *, complete: bool = True) -> list[Path]:
    """Return the model file of an entry, with all its parts if it is split, in order.

    Raises:
        TransferError: a part is missing, and the model shall be complete.
    """
    split = split_of(entry.path.name)
    if split is None:
        return [entry.path]
    base, _, count = split
    parts = {}
    for path in sorted(entry.path.parent.iterdir()):
        other = split_of(path.name) if stem_of(path.name) != path.name else None
        if other is not None and (other[0], other[2]) == (base, count):
            parts[other[1]] = path
    missing = next(number for number in range(1, len(parts) + 2) if number not in parts)
    if complete and missing <= count:
        raise TransferError(
            f"{entry.id}: part {missing} of {count} is missing in {entry.path.parent}", "source"
        )
    return [parts[number] for number in sorted(parts)]


def export_models(
    entries: Iterable[ModelEntry],
    models_dir: Path,
    dest: Path,
    *,
    replace: bool = False,
    config: Path | None = None,
    within: Path | None = None,
    report: Report = silent,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    plan: Callable[[int], None] = lambda size: None,
    hashes: Hashes | None = None,
    disk: Disk = DISK,
) -> list[Outcome]:
    """Copy models to ``dest``, which exists: the root of a stick, or a folder.

    A hash that the manifest of the models directory states, or that is known, must match.

    Args:
        within: a folder without symbolic links in which all files must be written: a link on the
            stick does not lead out of it. None if links may lead elsewhere.
        tell: hears each outcome when it is known.
        plan: hears how many bytes will be copied.

    Raises:
        TransferError: ``dest`` cannot be used, a file is too large for its file system, or it has
            not enough room. Then nothing was copied.
    """
    if not os.path.isdir(dest):
        raise TransferError(
            f"{dest}: is not a folder. Mount the stick there, or make the folder first.",
            "not_found",
        )
    folder = dest / MODELS_FOLDER
    _check_inside(folder, within)
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        tell(outcome)

    with locked(folder):
        recover(folder, disk)
        placer = Placer(folder, replace=replace, report=report, disk=disk)
        waiting = []
        for group in _groups(entries, models_dir, hashes or Hashes(None), note):
            try:
                for item in group.items:
                    _check_inside((folder / item.name).parent, within)
                missing = placer.missing(group)
            except TransferError as ex:
                status: Status = "skipped" if ex.code == "different" else "failed"
                note(Outcome(status, group.name, str(ex), ex.code, group.size, _id_of(group)))
                continue
            if missing is None:
                note(Outcome("identical", group.name, size=group.size, id=_id_of(group)))
            else:
                waiting.append(missing)
        placer.check_space(waiting)
        plan(sum(group.size for group in waiting))
        _write_texts(dest, config, disk)
        for group in waiting:
            try:
                placer.place(group)
            except TransferError as ex:
                note(Outcome("failed", group.name, _hinted(ex), ex.code, group.size, _id_of(group)))
            else:
                note(Outcome("exported", group.name, group.told, size=group.size, id=_id_of(group)))
    return outcomes


def _id_of(group: Group) -> str:
    """Return the id of the model that a group is; empty for a projector."""
    return "" if is_projector(group.items[0].name.rpartition("/")[2]) else group.id


def _check_inside(folder: Path, within: Path | None) -> None:
    """Check that no symbolic link leads a folder, which need not exist, out of another one.

    Raises:
        TransferError: one does.
    """
    if within is not None and not Path(os.path.realpath(folder)).is_relative_to(within):
        raise TransferError(
            f"{folder}: a link leads out of the medium. Remove the link.", "unwritable"
        )


def _groups(
    entries: Iterable[ModelEntry],
    models_dir: Path,
    hashes: Hashes,
    note: Callable[[Outcome], None],
) -> list[Group]:
    """Return the files of models; those that a stick could not hold are failures."""
    try:
        rows, _ = manifest.read(models_dir)
    except TransferError:
        rows = {}  # 'offgrid verify' names the damage; the models themselves can be exported
    groups: list[Group] = []
    taken: dict[str, str] = {}
    for entry in entries:
        try:
            made = list(_groups_of(entry, models_dir, rows, hashes))
            for group in made:
                _check_names(group, taken)
            groups += made
        except OSError as ex:
            reason = f"cannot be read ({ex.strerror or ex})"
            note(Outcome("failed", entry.id, reason, "source", id=entry.id))
        except TransferError as ex:
            note(Outcome("failed", entry.id, str(ex), ex.code, id=entry.id))
    return groups


def _groups_of(
    entry: ModelEntry, models_dir: Path, rows: dict[str, manifest.Row], hashes: Hashes
) -> Iterator[Group]:
    """Yield the model of an entry, and its projector under a name that says so."""
    items = tuple(_item(path, models_dir, rows, hashes) for path in files_of(entry))
    yield Group(entry.id, items)
    if entry.projector is not None:
        projector = _item(entry.projector, models_dir, rows, hashes)
        name = projector_beside(entry.projector.name, items[0].name)
        yield Group(name, (Item(projector.source, name, projector.sha256),))


def _check_names(group: Group, taken: dict[str, str]) -> None:
    """Check that a FAT stick can hold the names, and that an import accepts them.

    Raises:
        TransferError: one cannot be used, or differs from an earlier one only in letter case.
    """
    for item in group.items:
        if safe_path(item.name) is None:
            raise TransferError(
                f"the name {item.name!r} cannot be used on a stick; rename the file", "invalid"
            )
        first = taken.setdefault(item.name.casefold(), item.name)
        if first != item.name:
            raise TransferError(
                f"the names {item.name} and {first} differ only in letter case, which many sticks "
                "do not distinguish; rename one of the files",
                "invalid",
            )


def _item(path: Path, models_dir: Path, rows: dict[str, manifest.Row], hashes: Hashes) -> Item:
    # A model that was named by its path may lie outside the models directory.
    inside = path.is_relative_to(models_dir)
    name = path.relative_to(models_dir).as_posix() if inside else path.name
    row = rows.get(name) if inside else None
    return Item(file_source(path), name, row.sha256 if row else hashes.get(path) or "")


def _hinted(ex: TransferError) -> str:
    if ex.code != "wrong_hash":
        return str(ex)
    return f"{ex} If you replaced it on purpose, run 'offgrid verify --update' first."


def _write_texts(dest: Path, config: Path | None, disk: Disk) -> None:
    readme = dest / "README.txt"
    if not readme.exists():
        manifest.write_whole(readme, _README.replace("\n", os.linesep).encode(), disk)
    if config is not None:
        try:
            data = config.read_bytes()
        except OSError as ex:
            raise explained(ex, config, 0) from None
        manifest.write_whole(dest / CONFIG, data, disk)
