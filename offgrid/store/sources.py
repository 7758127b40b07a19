"""Where model files come from: files on sticks, members of wheels, and what is found in folders.

A wheel is opened as a zip archive; nothing of it is ever run. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import IO, Protocol

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.names import (
    EXTENSION,
    INSTALLER_FOLDER,
    is_gguf,
    is_projector,
    model_stem,
    projector_name,
    safe_path,
    split_of,
)
from offgrid.store.pinned import entry_of

_MAGIC = b"GGUF"
_SMALLEST = 24
"""Bytes of the header of a GGUF without metadata and tensors."""


class Reader(Protocol):
    """Reads a source from the beginning to the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; nothing at the end."""

    def close(self) -> None:
        """Close the files."""


class Source(Protocol):
    """The content of one model file."""

    @property
    def origin(self) -> str:
        """Return the path for messages."""

    @property
    def size(self) -> int:
        """Return the size in bytes."""

    def open(self, offset: int = 0) -> Reader:
        """Return a reader that begins at a byte.

        Raises:
            OSError: it cannot be read, or is no longer what it was.
        """

    def changed(self) -> bool:
        """Return whether the file was altered after this source was made."""


@dataclass(frozen=True)
class FileSource:
    """A file. ``mtime_ns`` tells whether it was altered."""

    path: Path
    size: int
    mtime_ns: int

    @property
    def origin(self) -> str:
        return str(self.path)

    def open(self, offset: int = 0) -> FileIO:
        # A device or pipe that has taken the file's name must not block the import.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = FileIO(os.open(self.path, flags), "rb")
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{self.path} is no longer a regular file")
            file.seek(offset)
        except BaseException:
            file.close()
            raise
        return file

    def changed(self) -> bool:
        status = self.path.stat()
        return (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns)


@dataclass(frozen=True)
class WheelSource:
    """One member of a wheel, or several that make up one file, in order."""

    members: tuple[tuple[FileSource, str], ...]
    size: int

    @property
    def origin(self) -> str:
        wheel, name = self.members[0]
        return f"{wheel.path}:{name}"

    def open(self, offset: int = 0) -> Reader:
        reader = _MembersReader(self.members)
        try:
            reader.skip(offset)
        except BaseException:
            reader.close()
            raise
        return reader

    def changed(self) -> bool:
        return any(wheel.changed() for wheel, _ in self.members)


class _MembersReader:
    """Reads members of wheels one after the other."""

    def __init__(self, members: Sequence[tuple[FileSource, str]]) -> None:
        self._left = list(members)
        self._stack = contextlib.ExitStack()
        self._member: IO[bytes] | None = None

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; nothing at the end of the last member."""
        while True:
            if self._member is None:
                if not self._left:
                    return b""
                self._member = self._next()
            try:
                data = self._member.read(size)
            except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as ex:
                raise OSError(f"the archive is damaged ({ex})") from None
            except Exception as ex:  # zlib.error and the errors of other decompressors
                if isinstance(ex, OSError):
                    raise
                raise OSError(f"the archive is damaged ({ex})") from None
            if data:
                return data
            self._stack.close()
            self._member = None

    def _next(self) -> IO[bytes]:
        wheel, name = self._left.pop(0)
        try:
            file = self._stack.enter_context(wheel.open())
            archive = self._stack.enter_context(zipfile.ZipFile(file))
            return self._stack.enter_context(archive.open(name))
        except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as ex:
            raise OSError(f"the archive is damaged ({ex})") from None

    def skip(self, offset: int) -> None:
        """Read and discard bytes: a compressed member can only be read from its beginning."""
        while offset > 0:
            data = self.read(min(offset, 2**20))
            if not data:
                raise OSError("the archive is shorter than before")
            offset -= len(data)

    def close(self) -> None:
        """Close the archives."""
        self._left = []
        self._stack.close()


def file_source(path: Path) -> FileSource:
    """Return a regular file as a source.

    Raises:
        OSError: the file cannot be read or is not regular.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return FileSource(path, status.st_size, status.st_mtime_ns)


def wheel_source(wheels: Sequence[tuple[Path, str]]) -> WheelSource:
    """Return members of wheels, each given by wheel and member, as the source of one file.

    Raises:
        OSError: a wheel cannot be read, is damaged, or has no such member.
    """
    members = []
    size = 0
    for path, name in wheels:
        wheel = file_source(path)
        sizes = dict(wheel_members(wheel))
        if name not in sizes:
            raise OSError(f"the archive has no member {name!r}")
        members.append((wheel, name))
        size += sizes[name]
    return WheelSource(tuple(members), size)


def wheel_members(wheel: FileSource) -> list[tuple[str, int]]:
    """Return the names and sizes of the members of a wheel.

    Raises:
        OSError: it cannot be read or is damaged.
    """
    try:
        with wheel.open() as file, zipfile.ZipFile(file) as archive:
            return [(info.filename, info.file_size) for info in archive.infolist()]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError) as ex:
        raise OSError(f"it is not a readable wheel ({ex})") from None


@dataclass(frozen=True)
class Item:
    """One file to be placed: its source, its name below the models directory, its known hash."""

    source: Source
    name: str
    sha256: str = ""
    """The SHA-256 that a manifest or table states, in lower-case hex; empty if none is known."""


@dataclass(frozen=True)
class Group:
    """The files of one model that become visible together: one file, or all parts of a split."""

    name: str
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Return the size of all files in bytes."""
        return sum(item.source.size for item in self.items)


@dataclass
class Found:
    """What was found: models, and a reason for every file that is not one of them."""

    groups: list[Group] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Paths with reasons."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Paths with reasons, where the user expects a model: a path of the command line, a damaged
    manifest or split model."""


@dataclass(frozen=True)
class _Candidate:
    source: Source
    folder: str
    """Folder or wheel; the parts of a split model have the same one."""
    name: str
    listed: bool
    """Whether a manifest gave the name, which may then have folders."""
    sha256: str = ""


def find(paths: Iterable[Path], models_dir: Path) -> Found:
    """Return the models in files and folders; folders with all their subfolders.

    A file that a manifest in its own or an upper folder lists gets the manifest's name and hash.
    Another file gets its own name without folders. A projector that belongs to the only model of
    its folder gets a name that says so (:func:`~offgrid.store.names.projector_name`).
    """
    found = Found()
    candidates: list[_Candidate] = []
    for path in paths:
        path = Path(os.path.abspath(path))
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as ex:
            found.failed.append((str(path), _reason(ex)))
            continue
        if is_folder:
            before = len(found.skipped) + len(candidates) + len(found.failed)
            candidates += _in_folder(path, models_dir, found)
            if before == len(found.skipped) + len(candidates) + len(found.failed):
                found.failed.append((str(path), "the folder contains no .gguf or .whl file"))
        elif not (is_gguf(path.name) or path.name.lower().endswith(".whl")):
            found.failed.append((str(path), "it is neither a folder nor a .gguf or .whl file"))
        else:
            alone = Found()
            rows = _manifest(path.parent, alone)
            candidates += _in_file(path, rows, path.parent, alone)
            found.failed += alone.failed + alone.skipped
    _make_groups(candidates, found)
    return found


def _in_folder(root: Path, models_dir: Path, found: Found) -> Iterator[_Candidate]:
    manifests: dict[str, dict[str, manifest.Row]] = {}

    def unreadable(ex: OSError) -> None:
        found.failed.append((str(ex.filename or root), _reason(ex)))

    own = os.path.realpath(models_dir)
    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        if os.path.realpath(folder) == own:
            subfolders.clear()
            found.skipped.append((folder, "it is the models directory itself"))
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        if INSTALLER_FOLDER in subfolders:
            subfolders.remove(INSTALLER_FOLDER)
            found.skipped.append((str(here / INSTALLER_FOLDER), "it contains OffGrid, no models"))
        seen = {name.lower() for name in names}
        upper = manifests.get(str(here.parent), {})
        rows = _manifest(here, found)
        for name in rows:
            if name.lower() not in seen and not (here / name).exists():
                found.failed.append((str(here / name), "manifest.json lists it, but it is missing"))
        base = f"{here.name}/"
        if not rows and here != root:  # a manifest of an upper folder
            rows = {n[len(base) :]: r for n, r in upper.items() if n.startswith(base)}
        manifests[folder] = rows
        for name in sorted(names):
            if not (is_gguf(name) or name.lower().endswith(".whl")):
                continue
            path = here / name
            if name.startswith("."):
                found.skipped.append((str(path), "it is a hidden file"))
            elif path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                reason = (
                    "it is a symbolic link that leaves the folder; give its own path to import it"
                )
                found.skipped.append((str(path), reason))
            else:
                yield from _in_file(path, rows, here, found)


def _manifest(folder: Path, found: Found) -> dict[str, manifest.Row]:
    try:
        rows, faults = manifest.read(folder)
    except TransferError as ex:
        found.failed.append((str(folder / manifest.NAME), str(ex)))
        return {}
    found.failed += [(str(folder / manifest.NAME), fault) for fault in faults]
    return rows


def _in_file(
    path: Path, rows: dict[str, manifest.Row], folder: Path, found: Found
) -> Iterator[_Candidate]:
    try:
        source = file_source(path)
        if path.name.lower().endswith(".whl"):
            yield from _in_wheel(source, found)
            return
        listed = next((r for n, r in rows.items() if n.lower() == path.name.lower()), None)
        if listed is not None and listed.size != source.size:
            raise OSError(
                f"it has {source.size} bytes, but manifest.json says {listed.size}: the file is "
                "damaged or was replaced"
            )
        if listed is None and safe_path(path.name) is None:
            raise OSError("its name cannot be used; rename it")
        check_magic(source)
    except OSError as ex:
        found.failed.append((str(path), _reason(ex)))
    else:
        name = listed.file_name if listed else path.name
        digest = listed.sha256 if listed else ""
        yield _Candidate(source, str(folder), name, listed is not None, digest)


def _in_wheel(wheel: FileSource, found: Found) -> Iterator[_Candidate]:
    models = [(name, size) for name, size in wheel_members(wheel) if is_gguf(name)]
    if not models:
        found.skipped.append((str(wheel.path), _without_model(wheel.path)))
    for name, size in models:
        source = WheelSource(((wheel, name),), size)
        base, digest = name.rpartition("/")[2], ""
        known = entry_of(wheel.path.name)
        if known is not None and [part.member for part in known.parts] == [name]:
            base, digest = f"{known.name}{EXTENSION}", known.sha256
        try:
            if safe_path(base) is None:
                raise OSError("its name cannot be used")
            check_magic(source)
        except OSError as ex:
            found.failed.append((source.origin, _reason(ex)))
        else:
            folder = f"{wheel.path}:{name.rpartition('/')[0]}"
            yield _Candidate(source, folder, base, False, digest)


def _without_model(path: Path) -> str:
    known = entry_of(path.name)
    if known is None:
        return "the wheel contains no .gguf file"
    # pip splits the variable at spaces, but not a URL, which has %20 for each.
    links = path.parent.as_uri() if " " in str(path.parent) else path.parent
    return (
        f"the wheel is one of several with {known.name}; fetch it with 'PIP_NO_INDEX=1 "
        f"PIP_FIND_LINKS={links} offgrid get {known.name}'"
    )


def check_magic(source: Source) -> None:
    """Check that a source begins like a GGUF.

    Raises:
        OSError: it does not, or cannot be read.
    """
    with contextlib.closing(source.open()) as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC or source.size < _SMALLEST:
        raise OSError("it is not a GGUF file (its first bytes are not 'GGUF')")


def _make_groups(candidates: list[_Candidate], found: Found) -> None:
    folders: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        folders.setdefault(candidate.folder, []).append(candidate)
    taken: dict[str, Group] = {}
    for members in folders.values():
        for group in _groups_of(members, found):
            first = taken.setdefault(group.items[0].name.lower(), group)
            if first is not group and first.items[0].source.origin != group.items[0].source.origin:
                reason = f"{first.items[0].source.origin} has the same name; rename one of them"
                found.failed.append((group.items[0].source.origin, reason))
    found.groups = list(taken.values())


def _groups_of(members: list[_Candidate], found: Found) -> Iterator[Group]:
    """Yield the groups of one folder."""
    models = {model_stem(c.name): c for c in members if not is_projector(c.name)}
    projectors = [c for c in members if is_projector(c.name)]
    only = next(iter(models.values())) if len(models) == len(projectors) == 1 else None
    splits: dict[tuple[str, int], dict[int, _Candidate]] = {}
    for candidate in members:
        split = split_of(candidate.name)
        if split is not None:
            splits.setdefault((split[0], split[2]), {})[split[1]] = candidate
            continue
        name = candidate.name
        if only is not None and is_projector(name) and not candidate.listed:
            name = projector_name(name, only.name)
        yield Group(name, (Item(candidate.source, name, candidate.sha256),))
    for (base, count), parts in splits.items():
        # The number of parts is the name's claim, so do not build a list of that length.
        missing = next(n for n in range(1, len(parts) + 2) if n not in parts)
        if len(parts) != count:
            reason = f"part {missing} of {count} is missing; all parts must be in one folder"
            found.failed += [(parts[n].source.origin, reason) for n in sorted(parts)]
            continue
        items = tuple(Item(parts[n].source, parts[n].name, parts[n].sha256) for n in sorted(parts))
        yield Group(f"{base} ({count} parts)", items)


def _reason(ex: OSError) -> str:
    return ex.strerror or str(ex)
