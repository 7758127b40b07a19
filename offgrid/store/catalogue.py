"""Which models there are: the GGUF files of the models directory, looked up anew at each call.

Files are served where they lie. A model's id is its path below the models directory without
``.gguf``; subfolders give ids with ``/``. A file that is not a regular file, is not readable or
does not begin like a GGUF is left out, and so are all but the first part of a split model.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from offgrid.config import Settings
from offgrid.errors import ConfigError, ModelNotFound

log = logging.getLogger(__name__)

STARTER_ID = "offgrid-starter"
STARTER_PATH = Path(__file__).parent.parent / "models" / f"{STARTER_ID}.gguf"
_MAGIC = b"GGUF"
_MAX_DEPTH = 4
_LATER_SPLIT = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model file. ``created`` is its modification time in Unix seconds, ``size`` in bytes."""

    id: str
    path: Path
    created: int
    size: int


class Catalogue:
    """Finds models by id.

    Args:
        settings: ``models_dir`` is searched; a ``default_model`` that is the path of a file is
            listed too, with the file's name as its id.

    Raises:
        ConfigError: ``default_model`` looks like a path and there is no GGUF there.
    """

    def __init__(self, settings: Settings) -> None:
        self._dir = settings.models_dir
        self._extra: Path | None = None
        wanted = settings.default_model
        if not wanted:
            self.default_id = None
        elif wanted.lower().endswith(".gguf") or Path(wanted).expanduser().is_file():
            self._extra = Path(wanted).expanduser().resolve()
            if _entry(self._extra, self._extra.stem) is None:
                raise ConfigError(f"OFFGRID_DEFAULT_MODEL (--model): no GGUF file at {wanted}")
            self.default_id = self._extra.stem
        else:
            self.default_id = wanted
            if wanted not in {entry.id for entry in self.entries()}:
                raise ConfigError(
                    f"OFFGRID_DEFAULT_MODEL (--model): no model {wanted!r} in {self._dir}"
                )

    def entries(self) -> list[ModelEntry]:
        """Return all models, sorted by id; only the bundled starter when there is no other."""
        found = {entry.id: entry for entry in self._scan()}
        if self._extra is not None:
            entry = _entry(self._extra, self._extra.stem)
            if entry is not None:
                found[entry.id] = entry
        # The starter stays reachable by name; it is listed where it would be served.
        if not found or self.default_id == STARTER_ID:
            starter = _entry(STARTER_PATH, STARTER_ID)
            if starter is not None:
                found.setdefault(STARTER_ID, starter)
        return sorted(found.values(), key=lambda entry: entry.id)

    def get(self, model_id: str) -> ModelEntry:
        """Return one model.

        The id is looked up among the files found, never joined to a path.

        Raises:
            ModelNotFound: no model of that id.
        """
        for entry in self.entries():
            if entry.id == model_id:
                return entry
        raise ModelNotFound(model_id)

    def _scan(self) -> list[ModelEntry]:
        if not self._dir.is_dir():
            return []
        found = []
        base = str(self._dir)
        for folder, subfolders, names in os.walk(base):
            relative = Path(folder).relative_to(base)
            if len(relative.parts) >= _MAX_DEPTH:
                subfolders.clear()
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                stem, extension = os.path.splitext(name)
                if (
                    extension.lower() != ".gguf"
                    or name.startswith(".")
                    or _LATER_SPLIT.search(stem)
                ):
                    continue
                entry = _entry(Path(folder) / name, (relative / stem).as_posix())
                if entry is not None:
                    found.append(entry)
        return found


def _entry(path: Path, model_id: str) -> ModelEntry | None:
    """Look at a file; None when it cannot be a model."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
    except OSError as ex:
        log.debug("left out: %s", ex)
        return None
    return ModelEntry(model_id, path, int(status.st_mtime), status.st_size)
