"""The catalogue of models: the GGUF files of the models directory, read anew at each call.

Files are served from where they lie. A model's id is its path below the models directory without
``.gguf``; subfolders give ids with ``/``. Of two files with the same id (``a.gguf`` and ``a.GGUF``)
the lower-case ending wins. The catalogue omits files that are not regular, not readable, or do not
begin like a GGUF, names that are not UTF-8, and all parts of a split model except the first.

A file with ``mmproj`` as a word of its name is not a model but a projector, which computes
embeddings of images. Without that word, its name is the name of its model in the same folder
(``mmproj-a.gguf``, ``a-mmproj.gguf`` and ``a.mmproj.gguf`` to ``a.gguf``). If the folder has only
one model and one projector, they belong together.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from offgrid.config import Settings
from offgrid.errors import ConfigError, ModelNotFound

log = logging.getLogger(__name__)

STARTER_ID = "offgrid-starter"
STARTER_PATH = Path(__file__).parent.parent / "models" / f"{STARTER_ID}.gguf"
_MAGIC = b"GGUF"
_EXTENSION = ".gguf"
_MAX_DEPTH = 4
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_PROJECTOR = re.compile(r"(^|[-_.])mmproj([-_.]|$)", re.IGNORECASE)
_LATER_SPLIT = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model file. ``created`` is its modification time in Unix seconds, ``size`` in bytes."""

    id: str
    path: Path
    created: int
    size: int
    projector: Path | None = None
    """The projector, which computes embeddings of images."""
    stamp: tuple[int, ...] = ()
    """Size, modification time in nanoseconds and inode of each of its files. If they are unchanged,
    the files count as unchanged."""


class Catalogue:
    """Finds models by id.

    Args:
        settings: ``models_dir`` is searched. If ``default_model`` is the path of a file, it is
            listed too, with the file's name as its id.

    Raises:
        ConfigError: ``default_model`` is neither an id nor the path of a GGUF file.
    """

    def __init__(self, settings: Settings) -> None:
        self._dir = settings.models_dir
        self._extra: Path | None = None
        self.default_id = settings.default_model or None
        # Ids first: a file in the current directory may have the same name as a model.
        if self.default_id in {None, *(entry.id for entry in self.entries())}:
            return
        wanted = settings.default_model
        path = _expanded(wanted)
        if path is not None and _entry(path, _id(path.name)) is not None:
            self._extra = path
            self.default_id = _id(path.name)
            return
        looked = "no GGUF file at" if wanted.lower().endswith(_EXTENSION) else "no model"
        raise ConfigError(
            f"OFFGRID_DEFAULT_MODEL (--model): {looked} {wanted!r}; "
            f"the ids are the names of the files in {self._dir}"
        )

    def entries(self) -> list[ModelEntry]:
        """Return all models, sorted by id; the bundled starter only if there is no other model."""
        found = {entry.id: entry for entry in self._scan()}
        if self._extra is not None:
            entry = _entry(self._extra, _id(self._extra.name))
            if entry is not None:
                names = _names(self._extra.parent)
                found[entry.id] = _with_projector(_with_parts(entry, names), names)
        # The starter is listed if it is the only model or the default model.
        if not found or self.default_id == STARTER_ID:
            starter = _entry(STARTER_PATH, STARTER_ID)
            if starter is not None:
                found.setdefault(STARTER_ID, starter)
        return sorted(found.values(), key=lambda entry: entry.id)

    def get(self, model_id: str) -> ModelEntry:
        """Return one model.

        The id is compared with the files found and never joined to a path.

        Raises:
            ModelNotFound: no model has this id.
        """
        for entry in self.entries():
            if entry.id == model_id:
                return entry
        raise ModelNotFound(model_id)

    def _scan(self) -> list[ModelEntry]:
        found = []
        base = str(self._dir)
        for folder, subfolders, names in os.walk(base):
            relative = Path(folder).relative_to(base)
            if len(relative.parts) >= _MAX_DEPTH:
                subfolders.clear()
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                stem = _id(name)
                if stem == name or name.startswith(".") or _LATER_SPLIT.search(stem):
                    continue
                if _PROJECTOR.search(stem):
                    continue
                entry = _entry(Path(folder) / name, (relative / stem).as_posix())
                if entry is not None:
                    found.append(_with_projector(_with_parts(entry, names), names))
        return found


def _id(name: str) -> str:
    return name[: -len(_EXTENSION)] if name.lower().endswith(_EXTENSION) else name


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as ex:
        log.debug("cannot list %r: %s", folder, ex)
        return []


def _with_parts(entry: ModelEntry, names: list[str]) -> ModelEntry:
    """Return the entry of a split model, including the stamps of its other parts."""
    stem = _id(entry.path.name)
    base = _SPLIT.sub("", stem)
    if base == stem:
        return entry
    stamp = entry.stamp
    for name in sorted(names):
        part = _id(name)
        if part not in (name, stem) and _SPLIT.sub("", part) == base and _SPLIT.search(part):
            stamp += _stamp(entry.path.with_name(name))
    return replace(entry, stamp=stamp)


def _with_projector(entry: ModelEntry, names: list[str]) -> ModelEntry:
    """Return the entry of a model, with its projector if the folder's files contain one."""
    stems = {name: _id(name) for name in sorted(names) if _id(name) != name and name[0] != "."}
    projectors = {name: stem for name, stem in stems.items() if _PROJECTOR.search(stem)}
    if not projectors:
        return entry
    own = _SPLIT.sub("", _id(entry.path.name)).lower()
    matching = [n for n, stem in projectors.items() if _PROJECTOR.sub("", stem).lower() == own]
    models = {_SPLIT.sub("", stem) for name, stem in stems.items() if name not in projectors}
    if not matching and len(models) == len(projectors) == 1:
        matching = list(projectors)
    for name in matching:
        projector = _entry(entry.path.with_name(name), entry.id)
        if projector is not None:
            stamp = entry.stamp + projector.stamp
            return replace(entry, projector=projector.path, stamp=stamp)
    return entry


def _expanded(text: str) -> Path | None:
    try:
        # Keep symbolic links: a cache may link readable names to names that are hashes.
        return Path(os.path.abspath(Path(text).expanduser()))
    except (RuntimeError, ValueError):
        return None  # for example "~nobody", or a null byte


def _entry(path: Path, model_id: str) -> ModelEntry | None:
    """Return the entry of a file; None if it cannot be a model."""
    try:
        # JSON cannot represent a name that is not UTF-8.
        model_id.encode()
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
    except (OSError, ValueError) as ex:
        log.debug("left out %r: %s", path, ex)
        return None
    stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
    return ModelEntry(model_id, path, int(status.st_mtime), status.st_size, stamp=stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_size, status.st_mtime_ns, status.st_ino)
