"""The stored responses of ``/v1/responses``: one SQLite file, bounded, shared by all threads.

A stored response is a row with its JSON object, and a row for each of its input and output items,
so a conversation consists of the items of a chain of responses. The file is in WAL mode: a kill at
any moment loses nothing that was stored before, and several servers may use one file. It is opened
on first use. Losing the stored responses must not take the server down: if the file is damaged or
removed, even while a server runs, a new one is created (:mod:`offgrid.store.database`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offgrid.errors import StoreBusy, StoreFailed
from offgrid.store.database import Database, Locked

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    previous TEXT,
    used INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used, size);
CREATE TABLE IF NOT EXISTS items (
    response INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE,
    position INTEGER NOT NULL,
    output INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (response, position)
);
CREATE INDEX IF NOT EXISTS items_by_id ON items (id);
"""
_CHAIN = """
WITH RECURSIVE chain (number, previous, size) AS (
    SELECT number, previous, size FROM responses WHERE id = ?
    UNION ALL
    SELECT r.number, r.previous, r.size
    -- Who is continued is older, so this ends whatever the file holds.
    FROM chain JOIN responses r ON r.id = chain.previous AND r.number < chain.number
)
"""
_SURPLUS = """
DELETE FROM responses WHERE number IN (
    SELECT number FROM (
        SELECT number, count(*) OVER latest AS kept, sum(size) OVER latest AS bytes
        FROM responses WINDOW latest AS (ORDER BY used DESC, number DESC)
    ) WHERE kept > ? OR bytes > ?
)
"""


@dataclass(frozen=True, slots=True)
class Item:
    """An input or output item: its id and its JSON."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the items that it answers.

    Attributes:
        id: its id.
        previous: id of the response that it continues, or None.
        body: the JSON of the response object, without the output.
        inputs: the items that its request contained, in order.
        outputs: the items of the answer, in order.
    """

    id: str
    previous: str | None
    body: bytes
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of all JSON."""
        return len(self.body) + sum(len(item.body) for item in (*self.inputs, *self.outputs))


class ChainBroken(Exception):
    """A conversation is incomplete. ``missing`` is the id that was not found."""

    def __init__(self, missing: str) -> None:
        super().__init__(f"Response {missing} is not stored.")
        self.missing = missing


class ChainTooLong(Exception):
    """A conversation is larger than the caller's limit; none of it was read."""


class ResponseStore:
    """The stored responses of one file. Thread-safe.

    Args:
        path: the file. The file and its folders are created on first use, readable only by their
            owner.
        max_count: largest number of stored responses; the least recently used are deleted first. 0
            disables storage and never touches the file.
        max_bytes: largest number of bytes of JSON, likewise.

    All methods raise StoreFailed if the file cannot be used, and StoreBusy if another process has
    locked it.
    """

    def __init__(self, path: Path, max_count: int, max_bytes: int) -> None:
        self._path = path
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._database = Database(path, _prepare)

    @property
    def enabled(self) -> bool:
        """Whether responses are stored."""
        return self._max_count > 0

    def takes(self) -> bool:
        """Return whether a response can be stored, as far as is known before the attempt.

        If the file was locked at the last attempt to write, it is tried again, without waiting.
        """
        if not self.enabled:
            return False
        if not self._database.write_locked:
            return True
        try:
            self._run(lambda connection: None, write=True)
        except StoreFailed:
            return False
        return True

    def put(self, response: StoredResponse) -> None:
        """Store a response durably; its whole conversation counts as used.

        Raises:
            StoreFailed: the response exceeds the store's limit, or the file cannot be used.
        """
        size = response.size
        if size > self._max_bytes or not self.enabled:
            raise StoreFailed(f"A response of {size} bytes is more than the store may hold.")

        def write(connection: sqlite3.Connection) -> None:
            if connection.execute(
                "SELECT 1 FROM responses WHERE id = ?", (response.id,)
            ).fetchone():
                return  # A repeated call, after a first one that had succeeded.
            (used,) = connection.execute(
                "SELECT coalesce(max(used), 0) + 1 FROM responses"
            ).fetchone()
            cursor = connection.execute(
                "INSERT INTO responses (id, previous, used, size, body) VALUES (?, ?, ?, ?, ?)",
                (response.id, response.previous, used, size, response.body),
            )
            items = [(0, item) for item in response.inputs]
            items += [(1, item) for item in response.outputs]
            connection.executemany(
                "INSERT INTO items (response, position, output, id, body) VALUES (?, ?, ?, ?, ?)",
                [
                    (cursor.lastrowid, position, output, item.id, item.body)
                    for position, (output, item) in enumerate(items)
                ],
            )
            connection.execute(
                _CHAIN + "UPDATE responses SET used = ? WHERE number IN (SELECT number FROM chain)",
                (response.previous, used),
            )
            count, total = connection.execute(
                "SELECT count(*), sum(size) FROM responses"
            ).fetchone()
            if count > self._max_count or total > self._max_bytes:
                connection.execute(_SURPLUS, (self._max_count, self._max_bytes))

        self._run(write, write=True)

    def get(self, id: str) -> StoredResponse | None:
        """Return a response, None if no response has this id."""
        if not self.enabled:
            return None

        def read(connection: sqlite3.Connection) -> StoredResponse | None:
            row = connection.execute(
                "SELECT number, previous, body FROM responses WHERE id = ?", (id,)
            ).fetchone()
            if row is None:
                return None
            number, previous, body = row
            rows = connection.execute(
                "SELECT output, id, body FROM items WHERE response = ? ORDER BY position",
                (number,),
            ).fetchall()
            inputs = tuple(Item(item, text) for output, item, text in rows if not output)
            outputs = tuple(Item(item, text) for output, item, text in rows if output)
            return StoredResponse(id, previous, body, inputs, outputs)

        return self._run(read)

    def delete(self, id: str) -> bool:
        """Remove a response and its items; return whether there was one.

        Responses that continue it stay, but their conversation can no longer be continued.
        """
        if not self.enabled:
            return False

        def remove(connection: sqlite3.Connection) -> bool:
            return connection.execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount > 0

        return self._run(remove, write=True)

    def conversation(self, id: str, max_bytes: int) -> list[bytes]:
        """Return the JSON of all items that led to a response, its output last.

        Raises:
            ChainBroken: the response, or one that it continues, is no longer stored.
            ChainTooLong: the JSON of these responses has more than ``max_bytes``.
        """
        if not self.enabled:
            raise ChainBroken(id)

        def read(connection: sqlite3.Connection) -> list[bytes]:
            chain = connection.execute(
                _CHAIN + "SELECT number, previous, size FROM chain ORDER BY number", (id,)
            ).fetchall()
            if not chain:
                raise ChainBroken(id)
            if sum(size for _, _, size in chain) > max_bytes:
                raise ChainTooLong
            missing = chain[0][1]
            if missing is not None:
                raise ChainBroken(missing)
            return [
                body
                for number, _, _ in chain
                for (body,) in connection.execute(
                    "SELECT body FROM items WHERE response = ? ORDER BY position", (number,)
                )
            ]

        return self._run(read)

    def items(self, ids: Sequence[str], max_bytes: int) -> dict[str, bytes]:
        """Return the JSON of the items that are stored, the latest of each id.

        Raises:
            ChainTooLong: the items together have more than ``max_bytes``.
        """
        if not self.enabled:
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            left = max_bytes
            for id in ids:
                row = connection.execute(
                    "SELECT body FROM items WHERE id = ? ORDER BY response DESC LIMIT 1", (id,)
                ).fetchone()
                if row is not None:
                    left -= len(row[0])
                    if left < 0:
                        raise ChainTooLong
                    found[id] = row[0]
            return found

        return self._run(read)

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._database.close()

    def _run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        try:
            return self._database.run(work, write=write)
        except Locked as ex:
            raise StoreBusy from ex
        except (sqlite3.Error, OSError) as ex:
            log.error("%s cannot be used: %s", self._path, ex)
            # The system's message contains the file's path, which clients must not see.
            reason = ex.strerror if isinstance(ex, OSError) else ex
            raise StoreFailed(f"The store of responses cannot be used: {reason}.") from ex


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a connection, and create the tables of a new file."""
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
    last = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'items_by_id'").fetchone()
    if version < _VERSION or last is None:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
        )
