"""One SQLite file for all threads of this process. Other processes may use, lock or remove it.

Every thread works on a separate connection, so reading threads never wait for each other, and no
lock of this process is held while another process holds the file. Each thread waits for the file by
itself and gives up after :data:`BUSY_SECONDS`. While the file then remains locked, threads do not
wait for it again; a single attempt shows whether it is still locked.

If the file is removed or replaced, the open file has no name, and data written to it is lost when
the process ends. Therefore the inodes of the file and of its two companions (``-wal`` and ``-shm``)
are compared before every use and after every write.

A damaged file is renamed together with its companions, and a new one begins. Nothing is deleted:
what can still be read in the damaged file, or is only in its ``-wal``, may be all that is left.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from offgrid.store.disk import hold

log = logging.getLogger(__name__)

T = TypeVar("T")
Inode = tuple[int, int]

BUSY_SECONDS = 1.0
"""How long a thread waits for a file that another process has locked, in seconds."""
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.01
_MAX_IDLE = 4
"""Largest number of idle connections that stay open."""
_ATTEMPTS = 3
"""How often work is attempted if its file is removed meanwhile or found to be damaged."""
SUFFIXES = ("", "-wal", "-shm")
"""Ends of the names of the file and of its companions."""
DAMAGED = ".damaged"
"""End of the name under which a damaged file is set aside; ``-2``, ``-3``, ... follow it if there
are such files already."""


REPLACED = ".before-restore"
"""End of the name of a copy of a file that a restore has replaced; numbers follow it likewise."""
COMPANIONS = (*SUFFIXES[1:], "-journal")
"""Ends of the names of companions, also of a file without a write-ahead log."""


class Locked(Exception):
    """Another process holds the file."""


class _Moved(Exception):
    """The opened file is no longer the one with that name."""


class _Damage(Exception):
    """A file is damaged.

    Attributes:
        error: what SQLite says.
        inode: the inode of that file; by now another file may have its name.
    """

    def __init__(self, error: sqlite3.DatabaseError, inode: Inode | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.inode = inode


class Database:
    """Runs transactions. Thread-safe.

    Args:
        path: the file. The file and its folders are created on first use, readable only by their
            owner.
        prepare: called with each new connection, outside a transaction; sets up the connection and
            creates the tables of a new file.
        precious: whether the data must not be replaced by an empty file: a file that is missing or
            damaged is an error, and stays as it is.
        mend: called with a connection, outside a transaction, before a damaged file is set aside;
            makes again what can be derived from the rest, and returns whether there is anything
            like that. The file is set aside if it raises ``sqlite3.DatabaseError``, or if the file
            is found to be damaged afterwards. Not used if the file is precious.
    """

    def __init__(
        self,
        path: Path,
        prepare: Callable[[sqlite3.Connection], None],
        *,
        precious: bool = False,
        mend: Callable[[sqlite3.Connection], bool] | None = None,
    ) -> None:
        self._path = path
        self._prepare = prepare
        self._precious = precious
        self._mend = mend
        self._changed = threading.Condition()
        """Guards the fields below; notified when any of them changes."""
        self._generation = 0
        """How often all connections have been closed."""
        self._renewing = False
        """Whether a thread waits for the others in order to close all connections."""
        self._users = 0
        self._open = 0
        """Number of connections, including those in use and those being opened."""
        self._idle: list[sqlite3.Connection] = []
        self._files: tuple[Inode | None, ...] | None = None
        """Inodes of the files that all connections have open; None if none is open."""
        self._writing = threading.Lock()
        """Held by the writing thread of this process, but not while it waits for another
        process."""
        self._locked = {False: False, True: False}
        """Whether the file was locked for too long, for reading and for writing."""

    @property
    def write_locked(self) -> bool:
        """Whether the file was locked for too long at the last attempt to write."""
        return self._locked[True]

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool, wait: bool = True) -> T:
        """Run work in one transaction, and return its result.

        Args:
            work: may be called more than once. Each call must work like the first, although the
                file may already contain its writes.
            write: whether it changes the file; changes are durable when this returns.
            wait: whether to wait for another process that has locked the file.

        Raises:
            Locked: another process holds the file.
            sqlite3.Error: the file cannot be used.
            OSError: the file cannot be used.
        """
        return self._attempt(lambda connection: transact(connection, work, write), write, wait)

    def compact(self) -> None:
        """Return the space of deleted data to the system, and empty the file ``-wal``.

        Raises:
            Locked, sqlite3.Error, OSError: as :meth:`run`.
        """
        self._attempt(_compact, write=True)

    def empty_log(self) -> None:
        """Empty the file ``-wal``, which otherwise keeps old versions of pages until another
        transaction needs the space. If anything uses the file just now, nothing happens."""
        with contextlib.suppress(Locked, sqlite3.Error, OSError):
            self._attempt(_empty_log, write=True, wait=False)

    def _attempt(
        self, work: Callable[[sqlite3.Connection], T], write: bool, wait: bool = True
    ) -> T:
        tried_to_mend = False
        for attempt in range(1, _ATTEMPTS + 1):
            generation = self._look_at_files()
            try:
                return self._patiently(work, write, wait)
            except _Moved:
                pass
            except _Damage as damage:
                if attempt == _ATTEMPTS or self._precious:
                    raise damage.error from None
                if self._is_current(generation):
                    if tried_to_mend or not self._mended():
                        self._renew(generation, damage)
                    tried_to_mend = True
            except MemoryError:
                # Damage may look like this: what says how long something is says gigabytes. It may
                # also be true, so the file is not set aside.
                if tried_to_mend or not self._mended():
                    raise
                tried_to_mend = True
            except sqlite3.DatabaseError:
                if attempt == _ATTEMPTS or self._is_current(generation):
                    raise
        raise sqlite3.OperationalError("the file was removed repeatedly")

    def _mended(self) -> bool:
        """Mend the damaged file, if possible; return whether it is worth another attempt."""
        if self._mend is None:
            return False
        try:
            return self._patiently(self._mend, write=True, wait=True)
        except _Moved:
            return True
        except _Damage:
            return False

    def close(self) -> None:
        """Close the file; later work reopens it."""
        with self._changed:
            generation = self._generation
        self._renew(generation)

    def __del__(self) -> None:
        for connection in self._idle:
            connection.close()

    def _patiently(self, work: Callable[[sqlite3.Connection], T], write: bool, wait: bool) -> T:
        """Run the work, waiting for other processes for at most :data:`BUSY_SECONDS`."""
        pause, waited = _FIRST_PAUSE, 0.0
        while True:
            try:
                with self._turn(write), self._connection() as connection:
                    result = work(connection)
                    if write and not self._is_there():
                        raise _Moved
            except sqlite3.OperationalError as ex:
                if not _is_lock(ex):
                    raise
                if not wait:
                    raise Locked(str(ex)) from ex
                if self._locked[write] or waited >= BUSY_SECONDS:
                    if not self._locked[write]:
                        log.warning("%s is locked by another process", self._path)
                    self._locked[write] = True
                    raise Locked(str(ex)) from ex
            else:
                if self._locked[write]:
                    log.info("%s is no longer locked", self._path)
                self._locked[write] = False
                return result
            time.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _turn(self, write: bool) -> contextlib.AbstractContextManager[object]:
        """Return the lock that makes this process's writers take turns; readers take none."""
        return self._writing if write else contextlib.nullcontext()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to the calling thread."""
        with self._changed:
            while self._renewing:
                self._changed.wait()
            self._users += 1
            connection = self._idle.pop() if self._idle else None
            self._open += connection is None
        keep = True
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except sqlite3.OperationalError as ex:
            keep = _is_lock(ex)
            raise
        except sqlite3.DatabaseError as ex:
            keep = False
            if _damaged(ex):
                raise _Damage(ex, self._file_in_use()) from ex
            raise
        except sqlite3.Error:
            keep = False
            raise
        finally:
            with self._changed:
                self._give_back(connection, keep)
                self._users -= 1
                self._changed.notify_all()

    def _give_back(self, connection: sqlite3.Connection | None, keep: bool) -> None:
        """Keep a connection or close it; None stands for one that could not be opened."""
        if connection is not None and keep and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
            return
        if connection is not None:
            connection.close()
        self._open -= 1
        if not self._open:  # SQLite removed the companion files with the last connection.
            self._files = None

    def _connect(self) -> sqlite3.Connection:
        if not self._is_there():
            raise _Moved
        if self._precious:
            os.stat(self._path)  # SQLite would create a file
        else:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite would create the file readable by everyone; its companions get the mode of this
            # file. An existing file must not be opened here, because closing it would release the
            # locks that SQLite holds on it for other threads.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        expected = self._inodes()[0]
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
            files = self._inodes()
            with self._changed:
                if files[0] != expected or self._files not in (None, files):
                    raise _Moved
                self._files = files
        except BaseException as ex:
            connection.close()
            if isinstance(ex, sqlite3.Error) and self._inodes()[0] != expected:
                raise _Moved from ex
            if isinstance(ex, sqlite3.DatabaseError) and _damaged(ex):
                raise _Damage(ex, expected) from ex
            raise
        return connection

    def _file_in_use(self) -> Inode | None:
        """Return the inode of the file that the open connections have open."""
        with self._changed:
            return None if self._files is None else self._files[0]

    def _inodes(self) -> tuple[Inode | None, ...]:
        # The companions lie next to the file itself, not next to a link to it.
        path = os.path.realpath(self._path)
        return tuple(_inode(path + suffix) for suffix in SUFFIXES)

    def _is_there(self) -> bool:
        with self._changed:
            files = self._files
        return files is None or files == self._inodes()

    def _is_current(self, generation: int) -> bool:
        """Return whether a finding about the files of this generation still holds."""
        with self._changed:
            return generation == self._generation and self._is_there()

    def _look_at_files(self) -> int:
        """Close all connections if the file is no longer there; return the generation."""
        with self._changed:
            generation = self._generation
        if not self._is_there():
            self._renew(generation)
            with self._changed:
                generation = self._generation
        return generation

    def _renew(self, generation: int, damage: _Damage | None = None) -> None:
        """Close all connections, unless another thread has already done so.

        SQLite shares its knowledge of a file among the connections of a process, so the last
        connection to an old file must be closed before the first one to a new file is opened.

        Args:
            generation: the generation in which the problem was found.
            damage: the reason to set the file aside, None to leave it.
        """
        with self._changed:
            while self._renewing:
                self._changed.wait()
            if self._generation != generation:
                return
            self._renewing = True
            while self._users:  # Each user gives up after a while.
                self._changed.wait()
            idle, self._idle = self._idle, []
            self._open = 0
            files, self._files = self._files, None
        try:
            found = self._inodes()
            # Closing the last connection saves the contents of the companions.
            for connection in idle:
                connection.close()
            if files is not None and found != files:
                log.warning("%s was removed or replaced while it was in use", self._path)
                if found[0] != files[0]:
                    self._remove_remains(files)
            if damage is not None:
                self._set_aside(damage)
        finally:
            with self._changed:
                self._generation += 1
                self._renewing = False
                self._changed.notify_all()

    def _remove_remains(self, files: tuple[Inode | None, ...]) -> None:
        """Remove the companions of a removed file; SQLite would mix them with the next file."""
        path = os.path.realpath(self._path)
        for suffix, inode in zip(SUFFIXES[1:], files[1:], strict=True):
            if inode is not None and inode == _inode(path + suffix):
                os.unlink(path + suffix)

    def _set_aside(self, damage: _Damage) -> None:
        """Rename the damaged file and its companions, unless another process has done so.

        Another process may have the file open. What it has stored may be in ``-wal`` only, where
        SQLite finds it as long as both files have the same name.

        Raises:
            Locked: another process renames a file of this folder.
        """
        with _alone_in(self._path.parent):
            if damage.inode is None or _inode(str(self._path)) != damage.inode:
                return
            aside = _free_name(self._path)
            log.error("%s is damaged (%s): set aside as %s", self._path, damage, aside)
            # The file is last: SQLite deletes a -wal for which there is only a new, empty file.
            for suffix in reversed(SUFFIXES):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}{suffix}", f"{aside}{suffix}")


def files_aside(path: Path) -> list[Path]:
    """Return the earlier contents of the file ``path``: files that were set aside because they were
    damaged, and what a restore has replaced; their companions too."""
    endings = "|".join(map(re.escape, (DAMAGED, REPLACED)))
    companions = "|".join(COMPANIONS)
    name = re.compile(rf"{re.escape(path.name)}({endings})(-[0-9]+)?({companions})?")
    try:
        return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))
    except FileNotFoundError:
        return []


def version_of(connection: sqlite3.Connection, newest: int) -> int:
    """Return the version of the tables of a file; 0 for a new file.

    Raises:
        sqlite3.NotSupportedError: it is later than ``newest``.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > newest:
        raise sqlite3.NotSupportedError("it was written by a later version of OffGrid")
    return int(version)


def transact(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], write: bool
) -> T:
    """Run work in one transaction of a connection, and return its result."""
    # A writer that begins as a reader cannot wait for another writer; readers never wait.
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _compact(connection: sqlite3.Connection) -> None:
    connection.execute("VACUUM")
    _empty_log(connection)


def _empty_log(connection: sqlite3.Connection) -> None:
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise sqlite3.OperationalError("database is locked")


def _inode(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let no other process set aside a file of a folder meanwhile.

    Windows needs no lock: there no file can be renamed that another process has open.

    Raises:
        Locked: another process does so now.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = hold(folder)
    if descriptor is None:
        raise Locked("another process has locked the folder")
    try:
        yield
    finally:
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    """Return a name for a damaged file that neither a file nor a companion has."""
    ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (path.with_name(path.name + DAMAGED + end) for end in ends)
    return next(
        name for name in names if not any(os.path.lexists(f"{name}{suffix}") for suffix in SUFFIXES)
    )


def _is_lock(error: sqlite3.OperationalError) -> bool:
    """Return whether another connection holds a lock. Before Python 3.11 only the message says."""
    return "locked" in str(error) or "locking protocol" in str(error)


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Return whether the file is damaged or not a database.

    For these two errors Python raises the base class itself; a full disk, a lock or a missing
    folder is an OperationalError.
    """
    return type(error) is sqlite3.DatabaseError
