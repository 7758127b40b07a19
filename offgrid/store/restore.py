"""Restores a backup, also while a server runs.

The whole archive is read and checked before anything changes. A database that exists is replaced in
one transaction of SQLite, so that a running server sees the old contents or the new ones; other
files are renamed into place. A copy of what was there stays beside each file.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from offgrid.config import Settings
from offgrid.errors import ConfigError, TransferError
from offgrid.store.backup import snapshot
from offgrid.store.backup_filters import is_absent, users_of_filters
from offgrid.store.backup_parts import (
    CONFIG,
    check_database,
    copy_database,
    opened,
    undo_interrupted,
)
from offgrid.store.catalogue import Catalogue
from offgrid.store.database import COMPANIONS, REPLACED
from offgrid.store.disk import DISK, Disk, explained
from offgrid.store.restore_plan import Plan, SettingsOf, Step, as_owner_of, make_plan

ASIDE = REPLACED
"""End of the name of a copy of what was there."""


@dataclass
class Restored:
    """What was restored.

    Attributes:
        targets: the files with their new contents.
        asides: copies of what was there.
        missing: ids of models that the server of the backup had, and this one has not.
        config: whether the configuration is among the files.
        unnamed_filter: the filter of the settings, which no setting names on this machine; None if
            there is no such filter.
        without_filter: paths of content filters that do not exist, each with what names it.
    """

    targets: list[Path] = field(default_factory=list)
    asides: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    config: bool = False
    unnamed_filter: Path | None = None
    without_filter: dict[str, str] = field(default_factory=dict)


def restore_backup(
    source: Path,
    config: Path | None,
    settings_of: SettingsOf,
    *,
    force: bool = False,
    disk: Disk = DISK,
) -> Restored:
    """Restore the files of a backup to where the settings say they belong.

    Args:
        source: the archive.
        config: where the configuration file belongs; None leaves the configuration out.
        settings_of: see :data:`~offgrid.store.restore_plan.SettingsOf`.
        force: whether files that exist are replaced.

    Raises:
        TransferError: the archive is damaged, foreign or of a later version, files exist, or one
            cannot be written. Unless the message says otherwise, nothing has changed.
    """
    with contextlib.ExitStack() as stack:
        plan = make_plan(source, config, settings_of, stack)
        there = [step.target for step in plan.steps if step.target.exists()]
        if there and not force:
            listed = ", ".join(map(str, there))
            raise TransferError(
                f"{listed}: exists already. Add --force to replace it; a copy of what is there "
                f"stays beside it, with the ending {ASIDE}.",
                "different",
            )
        done = Restored(config=plan.staged(CONFIG) is not None)
        for step in plan.steps:
            if step.target.exists():
                done.asides += _set_aside(step)
        for step in plan.steps:
            _put(step, disk, done)
            done.targets.append(step.target)
        with contextlib.suppress(ConfigError, TransferError, OSError):
            _note_missing(done, plan, settings_of(config if done.config else None))
        return done


def _note_missing(done: Restored, plan: Plan, settings: Settings) -> None:
    """Note what the restored files name, and this machine has not."""
    if settings.filter_file != plan.filter_file and not is_absent(plan.filter_file):
        done.unnamed_filter = Path(plan.filter_file)
    keys = settings.keys_file if settings.keys_file.exists() else None
    named = users_of_filters(settings, keys)
    done.without_filter = {path: whose for path, whose in named.items() if is_absent(path)}
    done.missing = list(plan.models)
    here = {entry.id for entry in Catalogue.of_files(settings).entries()}
    done.missing = [model for model in plan.models if model not in here]


def _set_aside(step: Step) -> list[Path]:
    """Copy what is there to a new name beside it; return the copies."""
    target = step.target
    aside = _free_name(target)
    try:
        is_sound = step.is_database and _is_sound(target)
    except sqlite3.OperationalError:
        raise TransferError(
            f"{target}: another program has locked it. Nothing was restored; try again.", "busy"
        ) from None
    if is_sound:
        snapshot(target, aside)
        as_owner_of(target.parent, aside)
        return [aside]
    # A database that cannot be read: keep its bytes, and those of its companions.
    copies = []
    for suffix in ("", *COMPANIONS) if step.is_database else ("",):
        path = target.with_name(target.name + suffix)
        if path.exists():
            copy = aside.with_name(aside.name + suffix)
            try:
                copy.touch(0o600)
                shutil.copyfile(path, copy)
            except OSError as ex:
                raise explained(ex, copy, path.stat().st_size) from None
            copies.append(copy)
    return copies


def _is_sound(path: Path) -> bool:
    """Return whether a database can be used; if not, it is replaced as a whole.

    Raises:
        sqlite3.OperationalError: another program has locked it, so that this is not known.
    """
    undo_interrupted(path)
    fault = check_database(path)
    if fault is not None and "locked" in fault:
        raise sqlite3.OperationalError(fault)
    return fault is None


def _free_name(path: Path) -> Path:
    number = 1
    aside = path.with_name(path.name + ASIDE)
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{ASIDE}-{number}")
    return aside


def _put(step: Step, disk: Disk, done: Restored) -> None:
    """Give a file its new contents."""
    try:
        if step.is_database and step.target.exists() and _is_sound(step.target):
            with opened(step.staged) as source, opened(step.target, write=True) as target:
                copy_database(source, target)
            return
        if step.is_database:  # companions of a file that is absent or damaged belong to no one
            for suffix in COMPANIONS:
                disk.remove(step.target.with_name(step.target.name + suffix))
        disk.replace(step.staged, step.target)
    except (OSError, sqlite3.Error) as ex:
        why = ex.strerror if isinstance(ex, OSError) else ex
        finished = ", ".join(map(str, done.targets)) or "no file"
        raise TransferError(
            f"{step.target}: cannot be restored ({why}); it has its old contents. Restored before "
            f"that: {finished}. Restore again when the reason is gone.",
            "unwritable",
        ) from None
