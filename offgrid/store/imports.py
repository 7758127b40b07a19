"""Imports models from sticks, folders and wheels into the models directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offgrid.errors import TransferError
from offgrid.store.disk import DISK, Disk, locked
from offgrid.store.sources import Group, find
from offgrid.store.transfer import CHECKPOINT, Placer, Report, recover, silent

Status = Literal["imported", "exported", "identical", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file or model.

    ``code`` is the code of a :class:`~offgrid.errors.TransferError`, ``size`` is in bytes.
    """

    status: Status
    name: str
    reason: str = ""
    code: str = ""
    size: int = 0


def import_models(
    paths: Iterable[Path],
    models_dir: Path,
    *,
    replace: bool = False,
    report: Report = silent,
    tell: Callable[[Outcome], None] = lambda outcome: None,
    disk: Disk = DISK,
    checkpoint: int = CHECKPOINT,
) -> list[Outcome]:
    """Import all models below some paths. ``tell`` hears each outcome when it is known.

    Raises:
        TransferError: the models directory cannot be used, another import uses it, or the models do
            not all fit on its disk. Then nothing was copied.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        tell(outcome)

    with locked(models_dir):
        for name in recover(models_dir, disk):
            note(Outcome("imported", name, "an interrupted import of it was finished"))
        found = find(paths, models_dir)
        for path, reason in found.skipped:
            note(Outcome("skipped", path, reason))
        for path, reason in found.failed:
            note(Outcome("failed", path, reason, "source"))
        placer = Placer(
            models_dir, replace=replace, report=report, disk=disk, checkpoint=checkpoint
        )
        waiting: list[Group] = []
        for group in found.groups:
            try:
                missing = placer.missing(group)
            except TransferError as ex:
                note(_failed(group, ex))
                continue
            if missing is None:
                note(Outcome("identical", group.name, size=group.size))
            else:
                waiting.append(missing)
        placer.check_space(waiting)
        for group in waiting:
            try:
                placer.place(group)
            except TransferError as ex:
                note(_failed(group, ex))
            else:
                note(Outcome("imported", group.name, size=group.size))
    return outcomes


def _failed(group: Group, ex: TransferError) -> Outcome:
    status: Status = "skipped" if ex.code == "different" else "failed"
    return Outcome(status, group.name, str(ex), ex.code, group.size)
