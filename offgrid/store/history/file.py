"""The SQLite file of the history: its tables, its search index, its errors.

The file is in WAL mode, and every change is on the disk when a request is answered, also if the
power fails then. If only the index of a file is damaged, the index is made again. Otherwise a
damaged file is set aside, and a new one begins (:mod:`offgrid.store.database`).

The text of messages is indexed by trigrams (FTS5), if this SQLite can do so. The index knows which
trigrams a message has, and not where (``detail = none``): it is small, and shows little of a
message that was deleted. A search then compares the messages that the index names with the
words. The index belongs to the file, and programs with another SQLite may use the file: without
FTS5 they remove the triggers that keep the index up to date, and search without it. A program that
misses the triggers makes the index again.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from offgrid.errors import StoreBusy
from offgrid.store.database import Database, files_aside, transact, version_of
from offgrid.store.file import explained, files_of, set_up

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
_BUSY = "Another process has locked the file of the history; try again later."
_UNUSABLE = "The file of the history cannot be used"
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS conversations (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        caller TEXT NOT NULL,
        id TEXT NOT NULL,
        title TEXT NOT NULL,
        searched TEXT NOT NULL,
        pinned INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        used INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        head TEXT,
        preview TEXT NOT NULL DEFAULT '',
        count INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL,
        settings BLOB NOT NULL,
        UNIQUE (caller, id)
    )""",
    # It has the columns that the limit needs, so that it reads no conversations.
    "CREATE INDEX IF NOT EXISTS conversations_by_use ON conversations (caller, pinned, used, size)",
    # Each change asks for the greatest number of a use.
    "CREATE INDEX IF NOT EXISTS conversations_by_last_use ON conversations (used)",
    # The body is last: a search need not pass the images in it.
    """CREATE TABLE IF NOT EXISTS messages (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        id TEXT NOT NULL,
        parent TEXT,
        revision INTEGER NOT NULL,
        searched TEXT NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (conversation, id)
    )""",
    "CREATE INDEX IF NOT EXISTS messages_by_revision ON messages (conversation, revision)",
)
_LAST = "messages_by_revision"
_INDEX = """CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    searched, content = 'messages', content_rowid = 'number', tokenize = 'trigram', detail = none
)"""
_ADD = "INSERT INTO words (rowid, searched) VALUES (new.number, new.searched);"
_REMOVE = "INSERT INTO words (words, rowid, searched) VALUES ('delete', old.number, old.searched);"
_TRIGGERS = {
    "words_insert": f"AFTER INSERT ON messages BEGIN {_ADD} END",
    "words_delete": f"AFTER DELETE ON messages BEGIN {_REMOVE} END",
    "words_update": f"AFTER UPDATE OF searched ON messages BEGIN {_REMOVE} {_ADD} END",
}
_LAST_TRIGGER = "words_update"
_MANY = 2_000
"""Messages of a large history."""


@functools.cache
def has_trigrams() -> bool:
    """Return whether this SQLite can index trigrams: FTS5, and version 3.34 at least."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5 (text, tokenize = 'trigram')")
    except sqlite3.Error:
        return False
    finally:
        connection.close()
    return True


class HistoryFile:
    """The file. Thread-safe. It is created on first use, readable only by its owner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, _prepare, mend=self._mend_index)

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        """Run work in one transaction, and return its result; it may be called more than once.

        Raises:
            StoreBusy: another process has locked the file.
            StoreFailed: the file cannot be used.
        """
        with explained(self._path, StoreBusy(_BUSY), _UNUSABLE):
            return self._database.run(work, write=write)

    def clear(self) -> int:
        """Delete everything; return the number of conversations. No file contains a deleted text
        afterwards.

        Raises:
            StoreBusy, StoreFailed: as :meth:`run`.
        """

        def wipe(connection: sqlite3.Connection) -> int:
            count = connection.execute("DELETE FROM conversations").rowcount
            forget_words(connection, at_any_cost=True)
            return count

        count = self.run(wipe, write=True)
        with explained(self._path, StoreBusy(_BUSY), _UNUSABLE):
            self._database.compact()
        return count

    def empty_log(self) -> None:
        """Remove what was deleted from ``-wal`` too, unless anything uses the file just now."""
        self._database.empty_log()

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._database.close()

    def _mend_index(self, connection: sqlite3.Connection) -> bool:
        """Make the index again, if there is one; everything else in the file is read once.

        Raises:
            sqlite3.DatabaseError: conversations or messages are damaged.
        """
        if not has_trigrams():
            return False
        log.warning("%s is damaged; its index is made again, if the rest can be read", self._path)
        _drop_index(connection)
        connection.execute("VACUUM")
        transact(connection, _make_index, write=True)
        return True


def is_indexed(connection: sqlite3.Connection) -> bool:
    """Return whether the index has the words of all messages, and this SQLite can read it."""
    return has_trigrams() and _exists(connection, _LAST_TRIGGER)


def forget_words(connection: sqlite3.Connection, *, at_any_cost: bool = False) -> None:
    """Remove deleted messages from the index, which otherwise keeps their trigrams for a while.

    The whole index is written again, which takes seconds for 20,000 messages. A large history is
    left as it is, unless ``at_any_cost``: the index has no places, so it shows which trigrams a
    message had, and not its text.
    """
    if not is_indexed(connection):
        return
    (count,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM messages LIMIT ?)", (_MANY + 1,)
    ).fetchone()
    if at_any_cost or count <= _MANY:
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def delete_history(path: Path) -> tuple[int, int]:
    """Delete what a file stores; return the numbers of conversations and of freed bytes.

    Other processes may use the file. Damaged files that were set aside, and copies of what a
    restore has replaced, are deleted too.

    Raises:
        StoreFailed: the file cannot be used.
        StoreBusy: another process has locked it.
        OSError: one of these files cannot be deleted.
    """
    before = sum(file.stat().st_size for file in files_of(path))
    count = 0
    if path.exists():
        file = HistoryFile(path)
        try:
            count = file.clear()
        finally:
            file.close()
    for earlier in files_aside(path):
        earlier.unlink(missing_ok=True)
    after = sum(file.stat().st_size for file in files_of(path))
    return count, max(before - after, 0)


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a connection; create the tables and the index that the file does not have."""
    version = version_of(connection, _VERSION)
    set_up(connection)
    connection.execute("PRAGMA synchronous = FULL")
    is_made = version == _VERSION and _exists(connection, _LAST)
    if is_made and _exists(connection, _LAST_TRIGGER) == has_trigrams():
        return  # Each write would wait for other writers.
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    (_make_index if has_trigrams() else _leave_index)(connection)
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _make_index(connection: sqlite3.Connection) -> None:
    connection.execute(_INDEX)
    if not _exists(connection, _LAST_TRIGGER):
        connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
    for name, definition in _TRIGGERS.items():
        connection.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {definition}")


def _drop_index(connection: sqlite3.Connection) -> None:
    """Remove the index without reading it, because ``DROP TABLE`` fails if it is damaged.

    Only its names are removed. Its pages stay in the file, and the next ``VACUUM`` leaves them out.
    """

    def remove(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'words' OR name GLOB 'words_*'")

    try:
        transact(connection, remove, write=True)
    finally:
        connection.execute("PRAGMA writable_schema = RESET")  # also reads the names again


def _leave_index(connection: sqlite3.Connection) -> None:
    for name in _TRIGGERS:
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")


def _exists(connection: sqlite3.Connection, name: str) -> bool:
    row = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return row is not None
