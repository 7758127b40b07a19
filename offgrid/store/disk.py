"""The operations on files that must survive a kill, a pulled stick and a full disk.

:class:`Disk` holds each operation that can fail. Tests replace some of them to make them fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import psutil

from offgrid.engine.folders import sync_folder
from offgrid.errors import TransferError

if sys.platform != "win32":
    import fcntl

FAT32_LIMIT = 2**32 - 1
"""The largest file in bytes that FAT32 can hold."""
_FAT = frozenset({"vfat", "msdos", "fat", "fat32"})
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_LOCK_FILE = ".import.lock"


class Disk:
    """The operations on files."""

    def write(self, file: FileIO, data: bytes | memoryview) -> None:
        """Write all bytes. The file is unbuffered."""
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]

    def sync(self, file: FileIO) -> None:
        """Return after the file's content is on the disk."""
        os.fsync(file.fileno())

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file; a file with the new name is replaced in the same moment."""
        os.replace(old, new)
        self.sync_folder(new.parent)

    def remove(self, path: Path) -> None:
        """Remove a file; it may be absent."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Return after renamed files of the folder are on the disk, where the system can tell."""
        sync_folder(folder)

    def free(self, folder: Path) -> int:
        """Return the bytes that this user may still write in a folder."""
        return shutil.disk_usage(folder).free


DISK = Disk()


def forget_cached(file: FileIO, offset: int = 0, size: int = 0) -> None:
    """Let the next read of a synced file come from the disk rather than from memory.

    Args:
        size: bytes from ``offset``; 0 for all.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)


def explained(ex: OSError, path: Path, size: int) -> TransferError:
    """Return the error for a failed write of a file of ``size`` bytes; 0 if that is not known."""
    if ex.errno in _FULL:
        room = mib(size) if size else "some room"
        return TransferError(
            f"{path}: the disk is full. Free {room} there and try again.", "disk_full"
        )
    if ex.errno == errno.EFBIG:
        return too_large(path, size)
    reason = ex.strerror or str(ex)
    return TransferError(
        f"{path}: cannot be written ({reason}). Check the folder and its permissions, and try "
        "again.",
        "unwritable",
    )


def too_large(path: Path, size: int) -> TransferError:
    """Return the error for a file that its file system cannot hold."""
    return TransferError(
        f"{path}: a file of {mib(size)} is too large for this file system (FAT32 holds files of up "
        "to 4 GiB). Format the stick as exFAT, or divide the model with "
        "'llama-gguf-split --split-max-size 4000M'.",
        "too_large",
    )


def largest_file(folder: Path) -> int | None:
    """Return the largest size of a file in bytes that a folder can hold; None if unknown."""
    where = folder.resolve()
    best, kind = -1, ""
    # Some systems do not list their file systems; the limit is then met when it is reached.
    with contextlib.suppress(OSError, RuntimeError):
        for partition in psutil.disk_partitions(all=True):
            mount = Path(partition.mountpoint)
            depth = len(mount.parts)
            # The last of several on one folder hides the others.
            if depth >= best and (mount == where or mount in where.parents):
                best, kind = depth, partition.fstype.lower()
    return largest_of(kind)


def largest_of(file_system: str) -> int | None:
    """Return the largest size of a file in bytes that a file system can hold; None if unknown.

    Args:
        file_system: its kind in lower case, as the system names it.
    """
    return FAT32_LIMIT if file_system in _FAT else None


def mib(size: int) -> str:
    """Return a size for a reader, in MiB or GiB."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.1f} MiB"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the right to change a models directory; the system ends it with this process.

    Raises:
        TransferError: another process holds it, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = hold(folder)
    except OSError as ex:
        raise explained(ex, folder, 0) from None
    if descriptor is None:
        raise TransferError(
            f"{folder}: another import or download is running there. Wait until it ends.", "busy"
        )
    try:
        yield
    finally:
        os.close(descriptor)


def hold(folder: Path) -> int | None:
    """Take the right to change a folder.

    Returns:
        A descriptor that holds it until it is closed or this process ends; None if another process
        holds it.

    Raises:
        OSError: the folder cannot be used.
    """
    descriptor = _open_lock(folder)
    try:
        _lock(descriptor)
    except OSError as ex:
        # A network file system may have no locks; then no two processes must use it at a time.
        if ex.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            os.close(descriptor)
            return None
    return descriptor


def _open_lock(folder: Path) -> int:
    if sys.platform == "win32":
        return os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT)
    return os.open(folder, os.O_RDONLY)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
