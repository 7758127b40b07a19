"""Imports models from sticks, folders and wheels into the models directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offgrid.errors import TransferError
from offgrid.store.commit import recover
from offgrid.store.copying import CHECKPOINT
from offgrid.store.disk import DISK, Disk, locked
from offgrid.store.hashes import Hashes
from offgrid.store.names import is_projector, projector_name, stem_of
from offgrid.store.progress import Report, silent
from offgrid.store.search import Found, find
from offgrid.store.sources import Group
from offgrid.store.transfer import Placer

Status = Literal["imported", "exported", "identical", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file or model.

    ``code`` is the code of a :class:`~offgrid.errors.TransferError`, ``size`` is in bytes, ``id``
    that of a model that was found.
    """

    status: Status
    name: str
    reason: str = ""
    code: str = ""
    size: int = 0
    id: str = ""


def import_models(
    paths: Iterable[Path],
    models_dir: Path,
    *,
    ids: Sequence[str] | None = None,
    within: Sequence[Path] = (),
    replace: bool = False,
    report: Report = silent,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    look: Callable[[str], None] = lambda folder: None,
    plan: Callable[[int], None] = lambda size: None,
    hashes: Hashes | None = None,
    disk: Disk = DISK,
    checkpoint: int = CHECKPOINT,
) -> list[Outcome]:
    """Import all models below some paths.

    Args:
        ids: the models to import; None for all.
        within: folders outside of which no file is opened (:func:`~offgrid.store.search.find`).
        look: hears each folder before it is searched.

    The other arguments, and the errors, are those of :func:`import_found`.
    """

    def search() -> Found:
        found = find(paths, models_dir, within=within, look=look)
        if ids is not None:
            choose(found, ids)
        return found

    return import_found(
        search, models_dir, replace=replace, report=report, tell=tell, plan=plan, hashes=hashes,
        disk=disk, checkpoint=checkpoint,
    )  # fmt: skip


def import_found(
    search: Callable[[], Found],
    models_dir: Path,
    *,
    replace: bool = False,
    report: Report = silent,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    plan: Callable[[int], None] = lambda size: None,
    hashes: Hashes | None = None,
    disk: Disk = DISK,
    checkpoint: int = CHECKPOINT,
) -> list[Outcome]:
    """Import the models that a search finds.

    Args:
        search: returns the models; called while the models directory is locked.
        replace: whether a different file with the same name is replaced.
        tell: hears each outcome when it is known.
        plan: hears how many bytes will be copied.
        hashes: the known SHA-256 of files.

    Raises:
        TransferError: the models directory cannot be used, another import uses it, the search
            fails, or the models do not all fit on its disk. Then nothing was copied.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        tell(outcome)

    with locked(models_dir):
        for name in recover(models_dir, disk):
            note(Outcome("imported", name, "an interrupted import of it was finished"))
        found = search()
        for path, reason in found.skipped:
            note(Outcome("skipped", path, reason))
        for path, reason in found.failed:
            note(Outcome("failed", path, reason, "source"))
        placer = Placer(
            models_dir,
            replace=replace,
            report=report,
            hashes=hashes,
            disk=disk,
            checkpoint=checkpoint,
        )
        waiting: list[Group] = []
        for group in found.groups:
            try:
                missing = placer.missing(group)
            except TransferError as ex:
                note(_failed(group, ex))
                continue
            if missing is None:
                note(Outcome("identical", group.name, size=group.size, id=group.id))
            else:
                waiting.append(missing)
        placer.check_space(waiting)
        plan(sum(group.size for group in waiting))
        for group in waiting:
            try:
                placer.place(group)
            except TransferError as ex:
                note(_failed(group, ex))
            else:
                note(Outcome("imported", group.name, group.told, size=group.size, id=group.id))
    return outcomes


def _failed(group: Group, ex: TransferError) -> Outcome:
    status: Status = "skipped" if ex.code == "different" else "failed"
    return Outcome(status, group.name, str(ex), ex.code, group.size, group.id)


def _belongs(name: str, models: Sequence[str]) -> bool:
    """Return whether a file is the projector of one of some models."""
    return is_projector(name) and any(projector_name(name, model) == name for model in models)


def choose(found: Found, ids: Sequence[str]) -> None:
    """Keep only the models with some ids, their projectors, and what is wrong with their files.

    Letter case and a ``.gguf`` at the end do not matter. An id that was not found is a failure.
    """
    wanted = {stem_of(name).casefold(): name for name in ids}
    chosen = [group for group in found.groups if group.id.casefold() in wanted]
    models = [group.items[0].name for group in chosen]
    groups = [g for g in found.groups if g in chosen or _belongs(g.items[0].name, models)]
    ends = {name.rpartition("/")[2] for name in wanted}
    faults = [f for f in found.failed if stem_of(Path(f[0]).name).casefold() in ends]
    there = {group.id.casefold() for group in chosen}
    there |= {stem_of(Path(path).name).casefold() for path, _ in faults}
    for folded, name in wanted.items():
        if folded not in there and folded.rpartition("/")[2] not in there:
            faults.append((name, "no model with this id was found"))
    found.groups, found.failed, found.skipped = groups, faults, []
