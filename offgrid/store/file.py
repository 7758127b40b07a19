"""The SQLite file of stored responses and conversations: its tables, its limits, its errors.

The file is in WAL mode: a kill at any moment loses nothing that was stored before, and several
servers may use one file. It is opened on first use. Losing the stored data must not take the
server down: if the file is damaged or removed, even while a server runs, a new one is created
(:mod:`offgrid.store.database`).

Responses and conversations share the limits. Each use gives them a number; those that were used
longest ago are deleted first. Callers share the limits too: while the file is full, what is deleted
belongs to callers with more than their share, so that no caller can push out what others store.
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
from offgrid.store.database import SUFFIXES, Database, Locked, files_aside, version_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_UNUSABLE = "The store of responses cannot be used"
_VERSION = 3
"""Version 1 had no conversations and no table of unfinished responses, version 2 no callers."""
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS responses (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        previous TEXT,
        used INTEGER NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL,
        caller TEXT NOT NULL DEFAULT ''
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
        body BLOB NOT NULL,
        caller TEXT NOT NULL DEFAULT ''
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
_INDEXES = (
    # They contain all columns that eviction looks at, so that it reads no bodies.
    "CREATE INDEX IF NOT EXISTS responses_by_caller ON responses (caller, used, size)",
    "CREATE INDEX IF NOT EXISTS conversations_by_caller ON conversations (caller, used, size)",
)
_LAST = "conversations_by_caller"
_TOTALS = """
SELECT
    (SELECT count(*) FROM responses) + (SELECT count(*) FROM conversations),
    (SELECT coalesce(sum(size), 0) FROM responses)
    + (SELECT coalesce(sum(size), 0) FROM conversations),
    coalesce((SELECT size FROM responses ORDER BY used DESC LIMIT 1), 0),
    coalesce((SELECT size FROM conversations ORDER BY used DESC LIMIT 1), 0)
"""
"""Number and bytes of all objects, and the bytes of the latest of each kind."""
_MANY, _SPARE = 1000, 100
"""With so many objects, a hundredth more than necessary is deleted: to find what is to be deleted
takes longer than to store a response."""
_SURPLUS = """
SELECT conversation, number FROM (
    SELECT
        conversation, number,
        count(*) OVER (ORDER BY place, used DESC, conversation DESC, number DESC) AS kept,
        sum(size) OVER (ORDER BY later, used DESC, conversation DESC, number DESC) AS bytes
    FROM (
        SELECT
            conversation, number, used, size,
            count(*) OVER own AS place, sum(size) OVER own - size AS later
        FROM (
            SELECT 0 AS conversation, number, used, size, caller FROM responses
            UNION ALL SELECT 1, number, used, size, caller FROM conversations
        )
        WINDOW own AS (PARTITION BY caller ORDER BY used DESC, conversation DESC, number DESC)
    )
) WHERE kept > ? OR bytes > ?
"""
"""What is to be deleted. ``place`` and ``later`` are the objects, and their bytes, that the caller
has used later. Objects are kept in the order of these numbers: the latest of each caller, then the
second latest of each, until a limit is reached. So a caller with less than its share keeps
everything, the others keep equally much, and what was used last is kept in any case."""


@dataclass(frozen=True, slots=True)
class Item:
    """An input or output item: its id and its JSON."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose responses and conversations a request sees.

    Attributes:
        id: the id of a key, which owns what is stored; empty if the server has no keys.
        shared: whether it also sees what was stored without keys.
    """

    id: str = ""
    shared: bool = True

    @property
    def sees(self) -> tuple[str, str]:
        """The owners whose objects it sees, for ``caller IN (?, ?)``."""
        return self.id, "" if self.shared else self.id


class TooLong(Exception):
    """A conversation is larger than the caller's limit; none of it was read."""


class StoreFile:
    """The file. Thread-safe.

    Args:
        path: the file. The file and its folders are created on first use, readable only by their
            owner.
        max_count: largest number of stored responses and conversations; see :meth:`evict`. 0
            disables storage and never touches the file.
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
        with explained(self._path, StoreBusy(), _UNUSABLE):
            return self._database.run(work, write=write)

    def evict(self, connection: sqlite3.Connection) -> None:
        """Delete responses and conversations until the limits hold: of the callers with more than
        their share, the least recently used ones."""
        count, total, *latest = connection.execute(_TOTALS).fetchone()
        if count <= self.max_count and total <= self.max_bytes:
            return
        most, size = self.max_count, self.max_bytes
        if count >= _MANY:
            most, size = most - most // _SPARE, max(size - size // _SPARE, *latest)
        surplus = connection.execute(_SURPLUS, (most, size)).fetchall()
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
        with explained(self._path, StoreBusy(), _UNUSABLE):
            self._database.compact()
        return counts

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._database.close()


@contextlib.contextmanager
def explained(path: Path, busy: StoreBusy, unusable: str) -> Iterator[None]:
    """Turn errors of a database into errors for clients.

    Args:
        path: the file.
        busy: the error if another process has locked it.
        unusable: the beginning of the message if it cannot be used.
    """
    try:
        yield
    except Locked as ex:
        raise busy from ex
    except (sqlite3.Error, OSError) as ex:
        log.error("%s cannot be used: %s", path, ex)
        # The system's message contains the file's path, which clients must not see.
        reason = ex.strerror if isinstance(ex, OSError) else ex
        raise StoreFailed(f"{unusable}: {reason}.") from ex


def set_up(connection: sqlite3.Connection) -> None:
    """Set up a connection: WAL mode, and deleted data is overwritten, so that it cannot be read
    from the file's free pages."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")


def next_use(connection: sqlite3.Connection) -> int:
    """Return a number greater than that of every use so far."""
    (used,) = connection.execute(
        "SELECT max((SELECT coalesce(max(used), 0) FROM responses),"
        " (SELECT coalesce(max(used), 0) FROM conversations)) + 1"
    ).fetchone()
    return int(used)


def files_of(path: Path) -> list[Path]:
    """Return the files that belong to a store and exist: also its earlier contents."""
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    return [*(file for file in files if file.exists()), *files_aside(path)]


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a connection, and create the tables that the file does not have."""
    version = version_of(connection, _VERSION)
    set_up(connection)
    # Create the tables only if needed: each write would wait for other writers.
    last = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_LAST,)).fetchone()
    if version < _VERSION or last is None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        for table in ("responses", "conversations"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if "caller" not in columns:  # what was stored before has no owner
                connection.execute(f"ALTER TABLE {table} ADD caller TEXT NOT NULL DEFAULT ''")
        for statement in _INDEXES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
