"""The SHA-256 of files that were hashed once, in SQLite.

A hash is known as long as path, size, inode, and times of modification and change of the file are
the same. The file of hashes lies beside that of stored responses, because a models directory may
be read-only. It is a cache: if it is absent, locked, damaged or cannot be written, hashes are
unknown, and nothing else happens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from offgrid.store.database import Database, Locked, version_of
from offgrid.store.digest import hash_of

log = logging.getLogger(__name__)

_NAME = "hashes.sqlite3"
_VERSION = 1
_MAX_FILES = 10_000
_TABLE = """
CREATE TABLE IF NOT EXISTS hashes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    stamp TEXT NOT NULL,
    sha256 TEXT NOT NULL
)
"""


class Hashes:
    """Known hashes. Thread-safe.

    Args:
        path: the SQLite file, which is created when the first hash is put into it; None to know
            none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database = None if path is None else Database(path, _prepare)

    @classmethod
    def beside(cls, responses_file: Path) -> Hashes:
        """Return the hashes in the folder of the file of stored responses."""
        return cls(responses_file.with_name(_NAME))

    def stamp(self, file: Path) -> str | None:
        """Return what identifies the present content of a file; None if it cannot be read."""
        try:
            status = file.stat()
        except (OSError, ValueError):
            return None
        return " ".join(
            map(str, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        )

    def get(self, file: Path) -> str | None:
        """Return the SHA-256 of a file in lower-case hex; None if it is not known."""
        stamp = self.stamp(file)
        if self._database is None or self._path is None or stamp is None:
            return None
        found = None
        with _harmless():
            if self._path.exists():  # reading does not create it
                query = "SELECT sha256 FROM hashes WHERE path = ? AND stamp = ?"
                found = self._database.run(
                    lambda connection: connection.execute(query, (_key(file), stamp)).fetchone(),
                    write=False,
                )
        return None if found is None else str(found[0])

    def find(self, sha256: str) -> Path | None:
        """Return a file that is known to have this SHA-256, and was not changed since."""
        if self._database is None or self._path is None or not self._path.exists():
            return None
        found: list[tuple[bytes]] = []
        with _harmless():
            query = "SELECT path FROM hashes WHERE sha256 = ? ORDER BY number DESC"
            found = self._database.run(
                lambda connection: connection.execute(query, (sha256.lower(),)).fetchall(),
                write=False,
            )
        paths = [Path(os.fsdecode(path)) for (path,) in found]
        return next((path for path in paths if self.get(path) == sha256.lower()), None)

    def get_or_compute(
        self, file: Path, report: Callable[[int], None] | None = None, *, anew: bool = False
    ) -> str:
        """Return the SHA-256 of a file; if it is not known, read the file and remember it.

        Args:
            report: hears how many bytes were read.
            anew: read the file even if its hash is known.

        Raises:
            OSError: the file cannot be read.
        """
        digest = None if anew else self.get(file)
        if digest is None:
            stamp = self.stamp(file)
            digest = hash_of(file, report)
            if stamp is not None:
                self.put(file, digest, stamp)
        return digest

    def put(self, file: Path, sha256: str, stamp: str | None = None) -> None:
        """Remember the hash of a file.

        Args:
            stamp: what :meth:`stamp` returned before the file was read; if omitted, the file is
                as it is now.
        """
        now = self.stamp(file)
        if self._database is None or now is None or stamp not in (None, now):
            return
        with _harmless():
            self._database.run(
                lambda connection: _put(connection, _key(file), now, sha256), write=True
            )

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        if self._database is not None:
            self._database.close()


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, Locked) as ex:
        log.debug("the file of hashes cannot be used: %s", ex)


def _key(file: Path) -> bytes:
    return os.fsencode(os.path.abspath(file))


def _put(connection: sqlite3.Connection, path: bytes, stamp: str, sha256: str) -> None:
    connection.execute("DELETE FROM hashes WHERE path = ?", (path,))
    connection.execute(
        "INSERT INTO hashes (path, stamp, sha256) VALUES (?, ?, ?)", (path, stamp, sha256)
    )
    oldest = "DELETE FROM hashes WHERE number <= (SELECT max(number) FROM hashes) - ?"
    connection.execute(oldest, (_MAX_FILES,))


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a connection, and create the table of a new file."""
    version = version_of(connection, _VERSION)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if version < _VERSION:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLE}; PRAGMA user_version = {_VERSION}; COMMIT;"
        )
