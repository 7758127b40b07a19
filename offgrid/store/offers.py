"""What this machine offers to others of its models: their files, under names that an import
accepts, and their hashes.

Other machines name a model by its id and a file of it by its number, never by a path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offgrid.config import Settings
from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.digest import hashed
from offgrid.store.draft_models import with_drafts
from offgrid.store.exports import files_of
from offgrid.store.hashes import Hashes
from offgrid.store.names import projector_beside
from offgrid.store.survey import ModelEntry

_ALTERED = (
    "it is not the file that manifest.json describes; run 'offgrid verify' there, and if it was "
    "replaced on purpose, 'offgrid verify --update'"
)
Allowed = Callable[[ModelEntry], bool]
"""Says whether the machine that asks may have a model."""


@dataclass(frozen=True)
class FileOffer:
    """A file of a model.

    Attributes:
        path: where it is here.
        name: its name below a models directory.
        size: bytes.
        sha256: of its content, in lower-case hex; empty if it is not known yet.
        problem: why it cannot be copied; empty if it can be.
    """

    path: Path
    name: str
    size: int
    sha256: str
    problem: str = ""


@dataclass(frozen=True)
class Offer:
    """A model that another machine may copy: its files in order, its projector last.

    ``draft`` is the id of its draft model; empty if it has none.
    """

    entry: ModelEntry
    files: tuple[FileOffer, ...]
    draft: str = ""

    @property
    def id(self) -> str:
        """The model's id."""
        return self.entry.id


class Offers:
    """The models that this machine offers. Thread-safe.

    Args:
        settings: where models are.
        catalogue: the models with their settings, which name the draft models.
        hashes: the known hashes of files.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, hashes: Hashes) -> None:
        self._models_dir = settings.models_dir
        self.files = Catalogue.of_files(replace(settings, model=""))
        """The catalogue of the files that are offered."""
        self._catalogue = catalogue
        self._hashes = hashes
        self._lock = threading.Lock()
        self._computed: dict[Path, tuple[str, str]] = {}
        """Stamp and hash of files, in case the file of hashes cannot be written."""

    def all(self, allowed: Allowed) -> list[Offer]:
        """Return all models that can be used and are allowed."""
        rows, drafts = self._rows(), self._drafts()
        found = self._entries(allowed)
        ids = {entry.path: entry.id for entry in found.values()}
        offers = []
        for entry in found.values():
            files = self._files(entry, rows)
            if files:
                draft = ids.get(drafts.get(entry.path, entry.path), "")
                offers.append(Offer(entry, files, "" if draft == entry.id else draft))
        return offers

    def find(self, id: str, allowed: Allowed) -> Offer | None:
        """Return the model with exactly this id; None if there is none, or it is not allowed."""
        entry = self._entries(allowed).get(id)
        files = () if entry is None else self._files(entry, self._rows())
        return Offer(entry, files) if entry is not None and files else None

    def hash(self, file: FileOffer) -> Iterator[tuple[int, str]]:
        """Compute the hash of a file, and remember it; see :func:`~offgrid.store.digest.hashed`.

        Raises:
            OSError: the file cannot be read.
        """
        stamp, sha256 = self._hashes.stamp(file.path), ""
        for done, sha256 in hashed(file.path):
            if not sha256:
                yield done, ""
        if stamp is not None and self._hashes.stamp(file.path) == stamp:
            self._hashes.put(file.path, sha256, stamp)
            with self._lock:
                self._computed[file.path] = (stamp, sha256)
        yield file.size, sha256

    def _entries(self, allowed: Allowed) -> dict[str, ModelEntry]:
        """Return the models by id, and the draft models that lie elsewhere."""
        files = self.files.entries()
        found: dict[str, ModelEntry] = {}
        for entry in with_drafts(files, files, self._catalogue.entries()):
            is_own = entry.path != STARTER_PATH and bool(entry.stamp)
            if is_own and allowed(entry) and self.files.describe(entry).problem is None:
                found.setdefault(entry.id, entry)
        return found

    def _drafts(self) -> dict[Path, Path]:
        """Return the first file of each model that has a draft model -> that of the draft model."""
        entries = self._catalogue.entries()
        return {entry.path: entry.draft[0] for entry in entries if entry.draft}

    def _rows(self) -> dict[str, manifest.Row]:
        try:
            return manifest.read(self._models_dir)[0]
        except TransferError:
            return {}  # 'offgrid verify' names the damage; the models themselves can be copied

    def _files(self, entry: ModelEntry, rows: dict[str, manifest.Row]) -> tuple[FileOffer, ...]:
        """Return the files of a model; none if one of them has vanished."""
        folder = PurePosixPath(entry.id).parent
        try:
            named = [(path, (folder / path.name).as_posix()) for path in files_of(entry)]
            if entry.projector is not None:
                name = projector_beside(entry.projector.name, named[0][1])
                named.append((entry.projector, name))
            return tuple(self._file(path, name, rows) for path, name in named)
        except (OSError, TransferError):
            return ()

    def _file(self, path: Path, name: str, rows: dict[str, manifest.Row]) -> FileOffer:
        size, known = path.stat().st_size, self._hashes.get(path) or self._kept(path)
        is_own = path.is_relative_to(self._models_dir)
        row = rows.get(path.relative_to(self._models_dir).as_posix()) if is_own else None
        if row is None:
            return FileOffer(path, name, size, known)
        differs = row.size != size or known not in ("", row.sha256)
        return FileOffer(path, name, size, row.sha256, _ALTERED if differs else "")

    def _kept(self, path: Path) -> str:
        with self._lock:
            stamp, sha256 = self._computed.get(path, (None, ""))
        return sha256 if stamp is not None and stamp == self._hashes.stamp(path) else ""
