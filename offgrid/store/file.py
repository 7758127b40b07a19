"""The SQLite file of stored responses and conversations: its tables, its limits, its errors.

The file is in WAL mode: a kill at any moment loses nothing that was stored before, and several
servers may use one file. It is opened on first use. Losing the stored data must not take the
server down: if the file is damaged or removed, even while a server runs, a new one is created
(:mod:`offgrid.store.database`).

Responses and conversations share the limits. Each use gives them a number; those that were used
longest ago are deleted first.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offgrid.errors import StoreBusy, StoreFailed
from offgrid.store.database import DAMAGED, SUFFIXES, Database, Locked

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 2
"""Version 1 had no conversations and no table of unfinished responses."""
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS responses (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        previous TEXT,
        used INTEGER NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used, size)",
    """CREATE TABLE IF NOT EXISTS items (
        response INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE,
        position INTEGER NOT NULL,
        output INTEGER NOT NULL,
        id TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (response, position)
    )""",
    "CREATE INDEX IF NOT EXISTS items_by_id ON items (id)",
    """CREATE TABLE IF NOT EXISTS unfinished (
        response INTEGER PRIMARY KEY REFERENCES responses ON DELETE CASCADE,
        owner TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS conversations (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        used INTEGER NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS conversations_by_use ON conversations (used, size)",
    """CREATE TABLE IF NOT EXISTS conversation_items (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        id TEXT NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (conversation, id)
    )""",
    "CREATE INDEX IF NOT EXISTS conversation_items_by_id ON conversation_items (id)",
)
_LAST = "conversation_items_by_id"
_TOTALS = """
SELECT
    (SELECT count(*) FROM responses) + (SELECT count(*) FROM conversations),
    (SELECT coalesce(sum(size), 0) FROM responses)
    + (SELECT coalesce(sum(size), 0) FROM conversations)
"""
_SURPLUS = """
SELECT conversation, number FROM (
    SELECT conversation, number, count(*) OVER latest AS kept, sum(size) OVER latest AS bytes
    FROM (
        SELECT 0 AS conversation, number, used, size FROM responses
        UNION ALL SELECT 1, number, used, size FROM conversations
    )
    WINDOW latest AS (ORDER BY used DESC, conversation DESC, number DESC)
) WHERE kept > ? OR bytes > ?
"""


@dataclass(frozen=True, slots=True)
class Item:
    """An input or output item: its id and its JSON."""

    id: str
    body: bytes


class TooLong(Exception):
    """A conversation is larger than the caller's limit; none of it was read."""


class StoreFile:
    """The file. Thread-safe.

    Args:
        path: the file. The file and its folders are created on first use, readable only by their
            owner.
        max_count: largest number of stored responses and conversations; the least recently used are
            deleted first. 0 disables storage and never touches the file.
        max_bytes: largest number of bytes of JSON, likewise.
    """

    def __init__(self, path: Path, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._path = path
        self._database = Database(path, _prepare)

    @property
    def enabled(self) -> bool:
        """Whether anything is stored."""
        return self.max_count > 0

    @property
    def write_locked(self) -> bool:
        """Whether the file was locked for too long at the last attempt to write."""
        return self._database.write_locked

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        """Run work in one transaction, and return its result; it may be called more than once.

        Raises:
            StoreBusy: another process has locked the file.
            StoreFailed: the file cannot be used.
        """
        with self._explained():
            return self._database.run(work, write=write)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database into errors of the store."""
        try:
            yield
        except Locked as ex:
            raise StoreBusy from ex
        except (sqlite3.Error, OSError) as ex:
            log.error("%s cannot be used: %s", self._path, ex)
            # The system's message contains the file's path, which clients must not see.
            reason = ex.strerror if isinstance(ex, OSError) else ex
            raise StoreFailed(f"The store of responses cannot be used: {reason}.") from ex

    def evict(self, connection: sqlite3.Connection) -> None:
        """Delete the least recently used responses and conversations until the limits hold."""
        count, total = connection.execute(_TOTALS).fetchone()
        if count <= self.max_count and total <= self.max_bytes:
            return
        surplus = connection.execute(_SURPLUS, (self.max_count, self.max_bytes)).fetchall()
        for table, conversation in (("responses", 0), ("conversations", 1)):
            connection.executemany(
                f"DELETE FROM {table} WHERE number = ?",
                [(number,) for kind, number in surplus if kind == conversation],
            )

    def clear(self) -> tuple[int, int]:
        """Delete everything; return the numbers of responses and of conversations.

        Afterwards no file contains a deleted text: the pages are overwritten, and the file ``-wal``
        is empty.

        Raises:
            StoreBusy, StoreFailed: as :meth:`run`.
        """

        def wipe(connection: sqlite3.Connection) -> tuple[int, int]:
            return (
                connection.execute("DELETE FROM responses").rowcount,
                connection.execute("DELETE FROM conversations").rowcount,
            )

        counts = self.run(wipe, write=True)
        with self._explained():
            self._database.compact()
        return counts

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._database.close()


def next_use(connection: sqlite3.Connection) -> int:
    """Return a number greater than that of every use so far."""
    (used,) = connection.execute(
        "SELECT max((SELECT coalesce(max(used), 0) FROM responses),"
        " (SELECT coalesce(max(used), 0) FROM conversations)) + 1"
    ).fetchone()
    return int(used)


def files_of(path: Path) -> list[Path]:
    """Return the files that belong to a store and exist: also one that was damaged."""
    names = [path.name + suffix for suffix in (*SUFFIXES, DAMAGED)]
    return [file for file in map(path.with_name, names) if file.exists()]


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a connection, and create the tables that the file does not have."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise sqlite3.NotSupportedError("it was written by a later version of OffGrid")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Overwrite deleted data, so that it cannot be read from the file's free pages.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")
    # Create the tables only if needed: each write would wait for other writers.
    last = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_LAST,)).fetchone()
    if version < _VERSION or last is None:
        connection.executescript(
            f"BEGIN IMMEDIATE; {'; '.join(_SCHEMA)}; PRAGMA user_version = {_VERSION}; COMMIT;"
        )
