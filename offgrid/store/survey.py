"""Reads folders of models: which files are models, with their parts and projectors.

The rules are those of :mod:`offgrid.store.catalogue`. Only the first bytes of each file are read.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from offgrid.config import NO_SETTINGS, ModelSettings
from offgrid.store.gguf_header import MAGIC, begins
from offgrid.store.names import EXTENSION, PART, PROJECTOR, stem_of

log = logging.getLogger(__name__)

_MAX_DEPTH = 4
MAX_NAMED = 10
"""Most ids or files that a message names."""

Fault = Literal[
    "adapter", "damaged", "draft", "duplicate", "empty", "name", "no_model", "not_gguf", "part",
    "projector", "unreadable",
]  # fmt: skip
"""Why a file cannot be served, in one word. ``damaged``: its header is not valid, or it is cut off.
``adapter`` and ``draft``: what the settings give it does not fit. ``duplicate``: another file has
its id. ``part``: one of its parts is missing or faulty. ``no_model``: it is something else, such as
a projector without a model (``projector``)."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model file. ``created`` is its modification time in Unix seconds, ``size`` in bytes; that
    of a split model is the sum of its parts."""

    id: str
    path: Path
    created: int
    size: int
    projector: Path | None = None
    """The projector, which computes embeddings of images."""
    stamp: tuple[int, ...] = ()
    """Size, modification time in nanoseconds and inode of each of its files. If they are unchanged,
    the files count as unchanged."""
    parts: tuple[Path, ...] = ()
    """All files of a split model, in order; empty for a single file."""
    template: str | None = None
    """The chat template that the settings give it, instead of the one in its file."""

    own: ModelSettings = NO_SETTINGS
    """The settings of this model."""
    draft: tuple[Path, ...] = ()
    """The files of its draft model, all parts in order; empty if it has none."""
    kept: bool = field(default=False, compare=False)
    """Whether a preference says that it stays loaded. That does not make it another model, which
    would have to be loaded anew."""

    @property
    def pinned(self) -> bool:
        """Whether it is loaded at start and stays loaded."""
        return self.own.pin or self.kept

    @property
    def adapters(self) -> tuple[Path, ...]:
        """The files of its LoRA adapters."""
        return tuple(lora.path for lora in self.own.lora)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or all parts, without the projector."""
        return self.parts or (self.path,)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that the catalogue leaves out, and why."""

    path: Path
    reason: str
    id: str = ""
    """The id that the model would have."""
    code: Fault = "unreadable"


def survey_folder(base: Path) -> tuple[list[ModelEntry], list[Skipped]]:
    """Return the models of a folder and its subfolders, and the files that are none."""
    found: list[ModelEntry] = []
    skipped: list[Skipped] = []

    def report(ex: OSError) -> None:
        # A default folder that does not exist is nothing to report.
        if not isinstance(ex, FileNotFoundError):
            skipped.append(Skipped(Path(os.fsdecode(ex.filename)), reason_of(ex)))

    if "\0" in str(base):  # os.walk would raise
        return found, skipped
    for folder, subfolders, names in os.walk(base, onerror=report):
        relative = Path(folder).relative_to(base)
        if len(relative.parts) >= _MAX_DEPTH:
            subfolders.clear()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        # A folder whose name ends like a model's is no model.
        _survey_names(Path(folder), relative, names, found, skipped)
    return found, skipped


def _survey_names(
    folder: Path,
    relative: Path,
    names: Sequence[str],
    found: list[ModelEntry],
    skipped: list[Skipped],
) -> None:
    """Add the models of one folder, and the files that are none."""
    stems = {
        name: stem_of(name) for name in names if stem_of(name) not in ("", name) and name[0] != "."
    }
    projectors = [name for name, stem in stems.items() if PROJECTOR.search(stem)]
    used: set[Path] = set()
    taken: dict[str, str] = {}
    lowest = _lowest_parts(stems.values())
    # Of two endings, the lower-case one comes first.
    for name in sorted(stems, key=lambda name: (not name.endswith(EXTENSION), name)):
        stem = stems[name]
        if name in projectors or lowest.get(PART.sub(r"-of-\2", stem), stem) != stem:
            continue
        path, model_id = folder / name, (relative / stem).as_posix()
        if stem in taken:
            skipped.append(Skipped(path, f"{taken[stem]} has the same id", code="duplicate"))
            continue
        entry = _whole_entry(path, model_id, names)
        if isinstance(entry, Skipped):
            skipped.append(entry)
            continue
        taken[stem] = name
        found.append(entry)
        if entry.projector is not None:
            used.add(entry.projector)
    for name in sorted(projectors):
        if folder / name in used:
            continue
        entry = read_entry(folder / name, "")
        reason = "a projector (mmproj), and no model in its folder has the same name"
        alone = Skipped(folder / name, reason, code="projector")
        skipped.append(entry if isinstance(entry, Skipped) else alone)


def survey_file(path: Path) -> tuple[list[ModelEntry], list[Skipped]]:
    """Return the model of a file that is given by its path, or why it is none."""
    entry = _whole_entry(path, stem_of(path.name), _names(path.parent))
    return ([], [entry]) if isinstance(entry, Skipped) else ([entry], [])


def _whole_entry(path: Path, model_id: str, names: Sequence[str]) -> ModelEntry | Skipped:
    """Return the entry of a model with its parts and its projector."""
    entry = read_entry(path, model_id)
    if isinstance(entry, ModelEntry):
        entry = _with_parts(entry, names)
    return entry if isinstance(entry, Skipped) else _with_projector(entry, names)


def _lowest_parts(stems: Iterable[str]) -> dict[str, str]:
    """Return, for each split model, the first of its parts that is there: it stands for it."""
    lowest: dict[str, str] = {}
    for stem in stems:
        if PART.search(stem):
            model = PART.sub(r"-of-\2", stem)
            lowest[model] = min(stem, lowest.get(model, stem))
    return lowest


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as ex:
        log.debug("cannot list %r: %s", folder, ex)
        return []


def _with_parts(entry: ModelEntry, names: Sequence[str]) -> ModelEntry | Skipped:
    """Return the entry of a split model with all its parts, or which part is missing."""
    stem = stem_of(entry.path.name)
    split = PART.search(stem)
    if split is None:
        return entry
    base, count = stem[: split.start()], int(split[2])
    by_stem = {stem_of(name): name for name in sorted(names, reverse=True)}
    parts: list[Path] = []
    stamp: tuple[int, ...] = ()
    size = 0
    for number in range(1, count + 1):
        part_stem = f"{base}-{number:05d}-of-{count:05d}"
        name = entry.path.name if part_stem == stem else by_stem.get(part_stem)
        part = read_entry(entry.path.with_name(name), entry.id) if name is not None else None
        if part is None:
            reason = f"its part {part_stem}{EXTENSION} is missing"
            return Skipped(entry.path, reason, entry.id, "part")
        if isinstance(part, Skipped):
            return replace(part, reason=f"its part {part.path.name}: {part.reason}", code="part")
        parts.append(part.path)
        stamp += part.stamp
        size += part.size
    if split[1] != "00001":
        first = parts[0].name if parts else "whose name ends with -00001"
        reason = f"it is a later part of a model; give the first, {first}"
        return Skipped(entry.path, reason, code="part")
    if not parts:
        return Skipped(entry.path, "its name says that it is one of 0 parts", entry.id, "name")
    return replace(entry, parts=tuple(parts), stamp=stamp, size=size)


def _with_projector(entry: ModelEntry, names: Sequence[str]) -> ModelEntry:
    """Return the entry of a model, with its projector if the folder's files contain one."""
    stems = {
        name: stem_of(name) for name in sorted(names) if stem_of(name) != name and name[0] != "."
    }
    projectors = {name: stem for name, stem in stems.items() if PROJECTOR.search(stem)}
    if not projectors:
        return entry
    own = PART.sub("", stem_of(entry.path.name)).lower()
    matching = [n for n, stem in projectors.items() if PROJECTOR.sub("", stem).lower() == own]
    models = {PART.sub("", stem) for name, stem in stems.items() if name not in projectors}
    if not matching and len(models) == len(projectors) == 1:
        matching = list(projectors)
    for name in matching:
        projector = read_entry(entry.path.with_name(name), entry.id)
        if isinstance(projector, ModelEntry):
            stamp = entry.stamp + projector.stamp
            return replace(entry, projector=projector.path, stamp=stamp)
    return entry


def read_entry(path: Path, model_id: str) -> ModelEntry | Skipped:
    """Return the entry of a file, or why it cannot be a model."""
    try:
        # JSON cannot represent a name that is not UTF-8.
        model_id.encode()
    except UnicodeEncodeError:
        return Skipped(path, "its name is not valid UTF-8; rename it", code="name")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Skipped(path, "it is not a regular file", model_id)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as ex:
        return Skipped(path, reason_of(ex), model_id)
    except ValueError as ex:
        return Skipped(path, str(ex), model_id)
    if magic != MAGIC:
        if not magic:
            return Skipped(path, "the file is empty", model_id, "empty")
        reason = f"not a GGUF file: it begins with {begins(magic)}"
        return Skipped(path, reason, model_id, "not_gguf")
    stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
    return ModelEntry(model_id, path, int(status.st_mtime), status.st_size, stamp=stamp)


def reason_of(ex: OSError) -> str:
    if isinstance(ex, PermissionError):
        return "permission denied"
    if isinstance(ex, FileNotFoundError):
        return "does not exist"
    return ex.strerror or str(ex)


def folder_problem(path: Path) -> str | None:
    """Return why a folder cannot be searched, as the end of a sentence; None if it can be."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return "is not a folder"
        with os.scandir(path) as names:
            next(names, None)
        if not os.access(path, os.X_OK):
            return "cannot be read: permission denied"
    except FileNotFoundError:
        return "does not exist"
    except OSError as ex:
        return f"cannot be read: {reason_of(ex)}"
    except ValueError as ex:
        return f"is not a valid path: {ex}"
    return None


def file_problem(path: Path) -> str | None:
    """Return why a file cannot be served as a model; None if it can be."""
    _, skipped = survey_file(path)
    if skipped:
        return skipped[0].reason
    if PROJECTOR.search(stem_of(path.name)):
        return "it is a projector (mmproj) and not a model; its model finds it by its name"
    return None


def path_problem(path: Path) -> str | None:
    """Return why a file or folder that was given cannot be served; None if it can be."""
    if not os.path.isdir(path):
        return file_problem(path)
    problem = folder_problem(path)
    if problem is not None:
        return problem
    entries, skipped = survey_folder(path)
    if entries:
        return None
    reasons = listed([f"{file.path.name}: {file.reason}" for file in skipped], "; ")
    return "the folder contains no model" + (f" (skipped: {reasons})" if skipped else "")


def listed(texts: Sequence[str], separator: str = ", ") -> str:
    """Return some texts for a message, and how many more there are."""
    first = separator.join(texts[:MAX_NAMED])
    more = len(texts) - MAX_NAMED
    return f"{first} and {more} more" if more > 0 else first
