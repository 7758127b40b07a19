"""The disk tier: one file for each saved prefix.

A file is written under a temporary name, synced and renamed, so a file with its final name is
complete. It is still checked whole before llama.cpp gets a byte of it, because llama.cpp trusts
what it reads and a disk may return anything. A file that is wrong in any way is deleted and counts
as absent.

Layout, all numbers little-endian::

    magic     8   b"OFFGRIDP"
    version   4
    key      32   of the model and the way it is loaded (cache.key)
    partition 16  of the sequence: a hash; zeros if all may use it
    tokens    4   number of token ids
    prompt    4   how many of them are the prompt
    mark      4   a shorter length that has a checkpoint, or 0
    state     8   bytes of the state, the checkpoint included
    mark size 8   bytes of the checkpoint, the last ones of the state
    digest   16   BLAKE2b of the fields above and the token ids
    token ids     4 each
    state
    digest   32   BLAKE2b of everything before it

BLAKE2b, and not a checksum such as CRC-32, because it finds any alteration, and because it is as
fast as reading (about 1 GB/s) and needs no further library.

Several workers, of one server or of several, may use one folder. A file that another one deleted is
absent. A temporary file is locked by its writer; one without a lock belongs to a worker that was
killed, and is deleted. A file of another user is not used, because its writer can give it a
valid digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import numpy as np

from offgrid.engine.folders import sync_folder
from offgrid.engine.saved_prefixes import (
    KEY_CHARACTERS,
    PARTIAL_SUFFIX,
    SUFFIX,
    SavedFile,
    forgotten_at,
    saved_files,
)
from offgrid.engine.worker.cache.index import SavedPrefix, StateBytes
from offgrid.engine.worker.prefix import MIN_REUSE

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

AUTO_BYTES, AUTO_SHARE = 4 << 30, 10
"""Without a setting, the folder may take 4 GiB, or, if that is less, a tenth of the sum of what it
holds and what is free on its disk."""
_MAGIC, _VERSION = b"OFFGRIDP", 3
_FIELDS = struct.Struct("<8sI32s16sIIIQQ")
_HEADER_DIGEST, _DIGEST = 16, 32
_CHUNK = 8 << 20
_MAX_TOKENS = 1 << 26
_ABANDONED = 3600.0
"""Seconds after which a temporary file counts as abandoned, on systems without locks."""
_MOST_FILES = 2000
"""Files of the whole folder. Each write looks at all of them, and a start reads the beginnings of
those of its model."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PrefixFiles:
    """The files of one model in one way of loading it.

    Args:
        folder: the folder of all saved prefixes; it is created, if that is possible, because
            ``offgrid forget`` leaves a mark in it.
        key: 32 bytes, from :func:`offgrid.engine.worker.cache.key.cache_key`.
        limit: most bytes of all files in the folder, also those of other models; -1 for
            :data:`AUTO_BYTES`.
    """

    def __init__(self, folder: Path, key: bytes, limit: int) -> None:
        self.folder = folder
        self._key = key
        self._limit = limit
        self._own = folder / key.hex()[:KEY_CHARACTERS]
        self._complained = False
        with contextlib.suppress(OSError):
            _create(folder)
        self._forgotten_at = forgotten_at(folder)

    @property
    def forgotten(self) -> bool:
        """Whether somebody has deleted the prefixes since the last call. Nothing that was computed
        before may be written then."""
        before, self._forgotten_at = self._forgotten_at, forgotten_at(self.folder)
        return before != self._forgotten_at

    def _is_forgotten(self) -> bool:
        return forgotten_at(self.folder) != self._forgotten_at

    # --- reading ------------------------------------------------------------------------------

    def scan(self) -> list[SavedPrefix]:
        """Return the saved prefixes without their states, least recently used first.

        Files that do not belong there are deleted, and so are temporary files without a writer.
        """
        found = []
        for file in saved_files(self.folder):
            if file.partial:
                self._delete_abandoned(file)
            elif file.path.parent == self._own:
                prefix = self._opened(file)
                if prefix is not None:
                    found.append(prefix)
        return found

    def _opened(self, file: SavedFile) -> SavedPrefix | None:
        try:
            with file.path.open("rb") as stream:
                prefix, _ = self._read_header(stream)
        except (OSError, ValueError, MemoryError) as ex:
            self._refuse(file.path, ex)
            return None
        prefix.path = file.path
        return prefix

    def read(self, prefix: SavedPrefix) -> StateBytes | None:
        """Return the state of a saved prefix; None if its file is absent or wrong, or cannot be
        read.

        Every byte of the file has been checked then, and the token ids are those of ``prefix``.
        """
        path = prefix.path
        if path is None:
            return None
        try:
            with path.open("rb", buffering=0) as stream:
                there, digest = self._read_header(stream)
                same = there.partition == prefix.partition
                if not same or not np.array_equal(there.tokens, prefix.tokens):
                    raise ValueError("it holds other tokens")
                if (there.size, there.mark_size) != (prefix.size, prefix.mark_size):
                    raise OSError("another server has replaced it")
                state = np.empty(there.size, dtype=np.uint8)
                view = state.data
                for begin in range(0, there.size, _CHUNK):
                    part = view[begin : begin + _CHUNK]
                    _fill(stream, part)
                    digest.update(part)
                if stream.read(_DIGEST + 1) != digest.digest():
                    raise ValueError("its digest is wrong")
        except (OSError, ValueError, MemoryError) as ex:
            self._refuse(path, ex)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return state

    def _read_header(self, stream: BinaryIO) -> tuple[SavedPrefix, hashlib.blake2b]:
        """Return the saved prefix without its state, and the digest so far.

        Raises:
            ValueError: the message says what is wrong.
            OSError: it cannot be read, or belongs to another user.
        """
        status = os.fstat(stream.fileno())
        _check_owner(status)
        fields = bytearray(_FIELDS.size)
        _fill(stream, fields)
        magic, version, key, partition, n_tokens, n_prompt, mark, size, mark_size = _FIELDS.unpack(
            fields
        )
        if magic != _MAGIC or version != _VERSION:
            raise ValueError("it is no saved prefix of this version")
        if key != self._key:
            raise ValueError("it belongs to another model, or to another build")
        if not MIN_REUSE <= n_tokens <= _MAX_TOKENS or max(n_prompt, mark) > n_tokens:
            raise ValueError("its numbers are wrong")
        if mark_size > size or (mark > 0) != (mark_size > 0):
            raise ValueError("its numbers are wrong")
        whole = _FIELDS.size + _HEADER_DIGEST + 4 * n_tokens + size + _DIGEST
        if size == 0 or status.st_size != whole:
            raise ValueError("its size is wrong")
        expected = bytearray(_HEADER_DIGEST)
        _fill(stream, expected)
        ids = bytearray(4 * n_tokens)
        _fill(stream, ids)
        if _header_digest(bytes(fields), ids) != expected:
            raise ValueError("its digest is wrong")
        digest = hashlib.blake2b(fields, digest_size=_DIGEST)
        digest.update(expected)
        digest.update(ids)
        tokens = np.frombuffer(ids, dtype="<i4").astype(np.int32)
        found = SavedPrefix(tokens, n_prompt, size, mark=mark, mark_size=mark_size)
        found.partition = partition.hex() if any(partition) else ""
        return found, digest

    @staticmethod
    def _refuse(path: Path, ex: Exception) -> None:
        """Delete a file if it is wrong; leave it if it only cannot be read now, or not by us."""
        if isinstance(ex, FileNotFoundError):
            return
        wrong = isinstance(ex, ValueError) or (isinstance(ex, OSError) and ex.errno == errno.EIO)
        what = "is deleted" if wrong else "is not used"
        log.warning("a saved prefix %s (%s): %s", what, path.name, ex or type(ex).__name__)
        if wrong:
            with contextlib.suppress(OSError):
                path.unlink()

    # --- writing ------------------------------------------------------------------------------

    def write(self, prefix: SavedPrefix, state: StateBytes) -> Path | None:
        """Write a saved prefix; return its file, or None if it was not written.

        A full disk, or a folder that cannot be written, is logged once and harms nothing. Nothing
        is left if somebody deletes the prefixes meanwhile, or has done so since :attr:`forgotten`
        was last asked.
        """
        ids = prefix.tokens.astype("<i4").tobytes()
        size = _FIELDS.size + _HEADER_DIGEST + len(ids) + len(state) + _DIGEST
        partition = bytes.fromhex(prefix.partition)
        name = hashlib.blake2b(partition + ids, digest_size=16).hexdigest()
        path = self._own / f"{name}{SUFFIX}"
        try:
            _create(self.folder)
            _create(self._own)
            if self._own.is_symlink():  # its files would not count
                raise NotADirectoryError(f"{self._own.name} is a link")
            if self._is_forgotten() or not self._make_room(size):
                return None
            self._write(path, prefix, ids, state)
            if self._is_forgotten():
                path.unlink(missing_ok=True)
                return None
        except OSError as ex:
            if not self._complained:
                full = ex.errno in _FULL
                what = "the disk is full" if full else str(ex)
                log.warning("saved prefixes are not written to %s: %s", self.folder, what)
            self._complained = True
            return None
        self._complained = False
        return path

    def _write(self, path: Path, prefix: SavedPrefix, ids: bytes, state: StateBytes) -> None:
        fields = _FIELDS.pack(
            _MAGIC, _VERSION, self._key, bytes.fromhex(prefix.partition), len(prefix.tokens),
            prefix.n_prompt, prefix.mark, len(state), prefix.mark_size,
        )  # fmt: skip
        digest = hashlib.blake2b(digest_size=_DIGEST)
        partial = self._own / f".{token_hex(16)}{PARTIAL_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(partial, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as stream:
                _check_owner(os.fstat(descriptor))  # it would not be used later
                _lock(descriptor)
                for part in _parts(fields, _header_digest(fields, ids), ids, state.data):
                    digest.update(part)
                    _write_all(stream, part)
                _write_all(stream, digest.digest())
                os.fsync(descriptor)
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync_folder(self._own)

    def _make_room(self, size: int) -> bool:
        """Delete the least recently used files, of any model, until another one fits; return
        whether it does."""
        files = saved_files(self.folder)
        taken = sum(file.size for file in files)
        limit = self._limit
        if limit < 0:
            free = shutil.disk_usage(self.folder).free
            limit = min(AUTO_BYTES, (taken + free) // AUTO_SHARE)
        if size > limit:
            return False
        count = len(files)
        for file in files:
            if taken + size <= limit and count < _MOST_FILES:
                break
            if file.partial and not _is_abandoned(file):
                continue
            with contextlib.suppress(OSError):
                file.path.unlink()
                taken -= file.size
                count -= 1
        return taken + size <= limit

    def delete(self, prefix: SavedPrefix) -> None:
        """Delete the file of a saved prefix, if there is one."""
        if prefix.path is not None:
            with contextlib.suppress(OSError):
                prefix.path.unlink()
            prefix.path = None

    @staticmethod
    def _delete_abandoned(file: SavedFile) -> None:
        if _is_abandoned(file):
            with contextlib.suppress(OSError):
                file.path.unlink()


def _header_digest(fields: bytes, ids: bytes | bytearray) -> bytes:
    return hashlib.blake2b(fields + ids, digest_size=_HEADER_DIGEST).digest()


def _parts(fields: bytes, digest: bytes, ids: bytes, state: memoryview) -> Iterator[memoryview]:
    yield memoryview(fields + digest + ids)
    for begin in range(0, len(state), _CHUNK):
        yield state[begin : begin + _CHUNK]


def _fill(stream: BinaryIO, target: bytearray | memoryview) -> None:
    """Read exactly as many bytes as fit.

    Raises:
        ValueError: the file ends before.
    """
    view = memoryview(target)
    while len(view):
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it is too short")
        view = view[count:]


def _write_all(stream: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[stream.write(view) :]


def _check_owner(status: os.stat_result) -> None:
    """Check that a file belongs to the user who runs this process, where the system tells.

    Raises:
        PermissionError: it does not.
    """
    if sys.platform != "win32" and status.st_uid != os.geteuid():
        raise PermissionError("its files belong to another user")


def _create(folder: Path) -> None:
    """Create a folder that only its owner can read; one that exists keeps its permissions."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a network file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(file: SavedFile) -> bool:
    """Whether the writer of a temporary file has ended."""
    if sys.platform == "win32":
        return time.time() - file.used / 1e9 > _ABANDONED
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
