"""Where the content of a model file comes from. Nothing here writes."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

from offgrid.store.digest import open_regular
from offgrid.store.names import stem_of

_MAGIC = b"GGUF"
_SMALLEST = 24
"""Bytes of the header of a GGUF without metadata and tensors."""
PULLED = (
    "If the stick was pulled or the file removed, put it back and try again: the copy continues "
    "there."
)
"""What to do if a file cannot be read."""
LEAVES = "it is a symbolic link that leaves the folder; give its own path to import it"
"""Why a link on a stick is not followed."""


class Reader(Protocol):
    """Reads a source from the beginning to the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; nothing at the end."""

    def readinto(self, buffer: bytearray, /) -> int | None:
        """Read into a buffer; return how many bytes, 0 at the end."""

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

    @property
    def remedy(self) -> str:
        """Return what to do if it cannot be read, as the end of a message."""

    def open(self, offset: int = 0) -> Reader:
        """Return a reader that begins at a byte.

        Raises:
            OSError: it cannot be read, or is no longer what it was.
        """

    def changed(self) -> bool:
        """Return whether the file was altered after this source was made."""


@dataclass(frozen=True)
class FileSource:
    """A file. ``times`` are those of its last modification and change, in nanoseconds."""

    path: Path
    size: int
    times: tuple[int, int]
    within: Path | None = None
    """A folder without symbolic links that must contain the file when it is opened. The path may
    lead elsewhere by then, because somebody replaced a folder or the file with a link."""

    @property
    def origin(self) -> str:
        return str(self.path)

    @property
    def remedy(self) -> str:
        return PULLED

    def open(self, offset: int = 0) -> FileIO:
        file = open_regular(self.path)
        try:
            if self.within is not None and not _opened_path(file, self.path).is_relative_to(
                self.within
            ):
                raise OSError(LEAVES)
            file.seek(offset)
        except BaseException:
            file.close()
            raise
        return file

    def changed(self) -> bool:
        status = self.path.stat()
        return (status.st_size, _times(status)) != (self.size, self.times)


def _opened_path(file: FileIO, path: Path) -> Path:
    """Return the real path of an open file, where the system tells it, else that of its name."""
    link = f"/proc/self/fd/{file.fileno()}"
    return Path(os.path.realpath(link if os.path.exists(link) else path))


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def file_source(path: Path, within: Path | None = None) -> FileSource:
    """Return a regular file as a source.

    Raises:
        OSError: the file cannot be read or is not regular.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return FileSource(path, status.st_size, _times(status), within)


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
    whole: tuple[Item, ...] = ()
    """All parts, if ``items`` is only the one that is to be placed; else empty."""

    @property
    def id(self) -> str:
        """Return the model's id: the name of its file, or of its first part, without ``.gguf``."""
        return stem_of((self.whole or self.items)[0].name)

    @property
    def told(self) -> str:
        """Return which part is placed, for a message; empty if it is the whole model."""
        if not self.whole:
            return ""
        return f"only {self.items[0].name} was copied; the other parts were there already"

    @property
    def size(self) -> int:
        """Return the size of all files in bytes."""
        return sum(item.source.size for item in self.items)


def check_magic(source: Source) -> None:
    """Check that a source begins like a GGUF.

    Raises:
        OSError: it does not, or cannot be read.
    """
    with contextlib.closing(source.open()) as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC or source.size < _SMALLEST:
        raise OSError("it is not a GGUF file (its first bytes are not 'GGUF')")
