"""Checks of files: configuration, models, disk, permissions, leftovers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from offgrid.cli.doctor.check import Check, State
from offgrid.config import Resolved, Settings, default_config_file
from offgrid.errors import OffgridError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.disk import mib

_FULL, _NEARLY_FULL = 100 << 20, 1 << 30
"""Free bytes below which a disk is a problem, and below which it is worth a warning."""
_MOST_NAMED = 5
_FIXES = {
    "file": "copy damaged files again, or remove them",
    "kind": "do what the reason says, or move files that are no models to another folder",
    "adapter": "correct lora or base in the [models] table that names the adapter",
    "draft": "name another draft_model, or none",
}
"""What to do about files that cannot be used, by what is to blame."""
_PARTIAL = (".part", ".part.json")
"""Endings of the hidden files of an import (:mod:`offgrid.store.partial`)."""


def check_configuration(resolved: Resolved) -> Check:
    """Say which settings are not the defaults."""
    file = resolved.file
    where = f"{file}" if file is not None else f"no file ({default_config_file()} does not exist)"
    names = ", ".join(sorted(resolved.sources)) or "none"
    return Check("configuration", "ok", f"{where}; settings that are given: {names}")


def check_models(settings: Settings, catalogue: Catalogue) -> Check:
    """Say how many models can be served, and which files cannot."""
    for check, fix in (
        (catalogue.check_folder, "correct this setting, or make the folder"),
        (catalogue.check_profiles, "correct this setting"),
        (catalogue.check, "copy a GGUF file there, or run 'offgrid get smollm2-135m'"),
    ):
        try:
            check()
        except OffgridError as ex:
            return Check("models", "problem", str(ex), fix)
    entries, skipped = catalogue.survey()
    unusable = [f"{file.path.name} ({file.reason})" for file in skipped]
    fixes = [_FIXES["file"]] if skipped else []
    for entry in entries:
        problem = catalogue.fault(entry)
        if problem is not None:
            unusable.append(f"{entry.path.name} ({problem})")
            fixes.append(_FIXES[catalogue.describe(entry).blame or "file"])
    usable = len(entries) + len(skipped) - len(unusable)
    if unusable:
        text = f"{usable} can be served, {len(unusable)} cannot: {_listed(unusable)}"
        return Check("models", "warning", text, "; ".join(dict.fromkeys(fixes)))
    if [entry.path for entry in entries] == [STARTER_PATH]:
        text = "only the bundled starter, which just shows that the server works"
        fix = f"run 'offgrid get smollm2-135m', or copy a GGUF file into {settings.models_dir}"
        return Check("models", "warning", text, fix)
    return Check("models", "ok", f"{usable} can be served; the default is {catalogue.default}")


def check_disk(settings: Settings) -> Check:
    """Look for free room where models and responses are stored."""
    places: dict[int, tuple[Path, int]] = {}
    for path in (settings.models_dir, settings.responses_file.parent):
        folder = _existing(path)
        places[folder.stat().st_dev] = (folder, shutil.disk_usage(folder).free)
    text = ", ".join(f"{mib(free)} free in {folder}" for folder, free in places.values())
    least = min(free for _, free in places.values())
    if least >= _NEARLY_FULL:
        return Check("disk", "ok", text)
    state: State = "problem" if least < _FULL else "warning"
    return Check("disk", state, text, "remove files, for example models with 'offgrid remove'")


def check_permissions(resolved: Resolved) -> Check:
    """Check what this user may write, and what other users may."""
    settings = resolved.settings
    # Models and responses usually lie in the same folder.
    faults = [*dict.fromkeys(_faults(settings, resolved.file))]
    if faults:
        texts, fixes = zip(*faults, strict=True)
        return Check("permissions", "warning", "; ".join(texts), "; ".join(fixes))
    return Check("permissions", "ok", "models and responses can be written, and only by this user")


def check_leftovers(settings: Settings) -> Check:
    """Look for the parts of imports that were interrupted."""
    found = [*_partial_files(settings.models_dir)]
    if not found:
        return Check("leftovers", "ok", "no partial files")
    size = sum(os.path.getsize(path) for path in found if path.exists())
    names = _listed([str(path) for path in found])
    fix = "repeat the import, which continues them, or delete them"
    return Check("leftovers", "warning", f"interrupted imports left {mib(size)}: {names}", fix)


def _faults(settings: Settings, file: Path | None) -> Iterator[tuple[str, str]]:
    models, stored = settings.models_dir, (settings.responses_file, settings.history_file)
    for folder in dict.fromkeys((models, *(path.parent for path in stored))):
        place = _existing(folder)
        if not os.access(place, os.W_OK):
            yield f"{place} cannot be written", f"make this user its owner: chown -R USER {place}"
    if os.name == "nt":
        return
    for kept in stored:
        if _mode(kept) & 0o077:
            yield f"other users may read {kept}", f"chmod 600 {kept}"
    for path in (file, models):
        if path is not None and _mode(path) & 0o002:
            yield f"every user may change {path}", f"chmod o-w {path}"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _existing(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    path = Path(os.path.abspath(path))
    # Other than Path.is_dir, this is False below a folder that this user may not look into.
    return next(place for place in (path, *path.parents) if os.path.isdir(place))


def _partial_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") and name.endswith(_PARTIAL):
                yield Path(place, name)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more
