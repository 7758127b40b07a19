"""The stored responses of ``/v1/responses``: one SQLite file, bounded, shared by all threads.

A stored response is a row with its JSON object, and a row for each of its input and output items,
so a conversation consists of the items of a chain of responses. A response that is answered in the
background is stored before it is finished, with its owner, which is the process that writes it.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offgrid.config import Commit, Settings
from offgrid.errors import StoreFailed
from offgrid.store.conversations import ConversationStore, append
from offgrid.store.database import files_aside
from offgrid.store.file import Item, Owner, StoreFile, TooLong, files_of, next_use

T = TypeVar("T")

_CHAIN = """
WITH RECURSIVE chain (number, previous, size) AS (
    SELECT number, previous, size FROM responses WHERE id = :id AND caller IN (:own, :more)
    UNION ALL
    SELECT r.number, r.previous, r.size
    -- Who is continued is older, so this ends whatever the file holds.
    FROM chain JOIN responses r ON r.id = chain.previous AND r.number < chain.number
        AND r.caller IN (:own, :more)
)
"""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the items that it answers.

    Attributes:
        id: its id.
        previous: id of the response that it continues, or None.
        body: the JSON of the response object, without the output.
        inputs: the items that its request contained, in order.
        outputs: the items of the answer, in order.
        owner: the process that still writes it, None if it is finished.
    """

    id: str
    previous: str | None
    body: bytes
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    owner: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all JSON."""
        return len(self.body) + sum(len(item.body) for item in (*self.inputs, *self.outputs))


class ChainBroken(Exception):
    """A conversation is incomplete. ``missing`` is the id that was not found."""

    def __init__(self, missing: str) -> None:
        super().__init__(f"Response {missing} is not stored.")
        self.missing = missing


class ChainUnfinished(Exception):
    """A conversation contains the response ``id``, which is not finished."""

    def __init__(self, id: str) -> None:
        super().__init__(f"Response {id} is not finished.")
        self.id = id


ChainTooLong = TooLong


class ResponseStore:
    """The stored responses of one file. Thread-safe.

    Args:
        path: the file; see :class:`~offgrid.store.file.StoreFile`.
        max_count: largest number of stored responses and conversations.
        max_bytes: largest number of bytes of JSON.

    Attributes:
        owner: whose responses it stores and sees; what others have stored does not exist for it.
        conversations: the conversations in the same file.

    All methods raise StoreFailed if the file cannot be used, and StoreBusy if another process has
    locked it.
    """

    def __init__(self, path: Path, max_count: int, max_bytes: int) -> None:
        self._file = StoreFile(path, max_count, max_bytes)
        self.owner = Owner()
        self.conversations = ConversationStore(self._file, self.owner)

    def of(self, owner: Owner) -> ResponseStore:
        """Return the same store as an owner sees it."""
        if owner == self.owner:
            return self
        view = copy.copy(self)
        view.owner = owner
        view.conversations = ConversationStore(self._file, owner)
        return view

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""

        def commit() -> None:
            self._file.max_count = settings.max_responses
            self._file.max_bytes = settings.max_responses_mb << 20

        return commit

    @property
    def enabled(self) -> bool:
        """Whether responses are stored."""
        return self._file.enabled

    def takes(self) -> bool:
        """Return whether a response can be stored, as far as is known before the attempt.

        If the file was locked at the last attempt to write, it is tried again, without waiting.
        """
        if not self.enabled:
            return False
        if not self._file.write_locked:
            return True
        try:
            self._run(lambda connection: None, write=True)
        except StoreFailed:
            return False
        return True

    def put(self, response: StoredResponse, conversation: str | None = None) -> None:
        """Store a response durably; its whole conversation counts as used.

        Args:
            response: a finished response, or one with an owner, which :meth:`finish` finishes.
            conversation: id of a conversation to which its items are added, if it exists.

        Raises:
            StoreFailed: the response exceeds the store's limit, or the file cannot be used.
        """
        self._check_size(response)

        def write(connection: sqlite3.Connection) -> None:
            if connection.execute(
                "SELECT 1 FROM responses WHERE id = ?", (response.id,)
            ).fetchone():
                return  # A repeated call, after a first one that had succeeded.
            self._insert(connection, response, self.owner.id)
            self._extend(connection, response, conversation)
            self._file.evict(connection)

        self._run(write, write=True)

    def finish(self, response: StoredResponse, conversation: str | None = None) -> None:
        """Replace an unfinished response by its final form, also if it was evicted meanwhile.

        Args:
            response: the final form; its inputs are those that were stored.
            conversation: as in :meth:`put`.

        Raises:
            StoreFailed: as :meth:`put`.
        """
        self._check_size(response)

        def write(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT u.owner, r.caller FROM responses r"
                " LEFT JOIN unfinished u ON u.response = r.number WHERE r.id = ?",
                (response.id,),
            ).fetchone()
            if row is not None and row[0] is None:
                return  # A repeated call.
            connection.execute("DELETE FROM responses WHERE id = ?", (response.id,))
            self._insert(connection, response, self.owner.id if row is None else row[1])
            self._extend(connection, response, conversation)
            self._file.evict(connection)

        self._run(write, write=True)

    def _check_size(self, response: StoredResponse) -> None:
        size = response.size
        if size > self._file.max_bytes or not self.enabled:
            raise StoreFailed(f"A response of {size} bytes is more than the store may hold.")

    def _insert(
        self, connection: sqlite3.Connection, response: StoredResponse, caller: str
    ) -> None:
        used = next_use(connection)
        cursor = connection.execute(
            "INSERT INTO responses (id, previous, used, size, body, caller)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (response.id, response.previous, used, response.size, response.body, caller),
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
        if response.owner is not None:
            connection.execute(
                "INSERT INTO unfinished (response, owner) VALUES (?, ?)",
                (cursor.lastrowid, response.owner),
            )
        connection.execute(
            _CHAIN + "UPDATE responses SET used = :used WHERE number IN (SELECT number FROM chain)",
            {**self._chain(response.previous), "used": used},
        )

    def _chain(self, id: str | None) -> dict[str, str | None]:
        """Return the parameters of :data:`_CHAIN`."""
        own, more = self.owner.sees
        return {"id": id, "own": own, "more": more}

    def _extend(
        self, connection: sqlite3.Connection, response: StoredResponse, conversation: str | None
    ) -> None:
        if conversation is not None:
            items = (*response.inputs, *response.outputs)
            append(self._file, connection, conversation, items, self.owner)

    def get(self, id: str) -> StoredResponse | None:
        """Return a response, None if no response has this id."""
        if not self.enabled:
            return None

        def read(connection: sqlite3.Connection) -> StoredResponse | None:
            row = connection.execute(
                "SELECT r.number, r.previous, r.body, u.owner FROM responses r"
                " LEFT JOIN unfinished u ON u.response = r.number"
                " WHERE r.id = ? AND r.caller IN (?, ?)",
                (id, *self.owner.sees),
            ).fetchone()
            if row is None:
                return None
            number, previous, body, owner = row
            rows = connection.execute(
                "SELECT output, id, body FROM items WHERE response = ? ORDER BY position",
                (number,),
            ).fetchall()
            inputs = tuple(Item(item, text) for output, item, text in rows if not output)
            outputs = tuple(Item(item, text) for output, item, text in rows if output)
            return StoredResponse(id, previous, body, inputs, outputs, owner)

        return self._run(read)

    def delete(self, id: str) -> bool:
        """Remove a response and its items; return whether there was one.

        Responses that continue it stay, but their conversation can no longer be continued.
        """
        if not self.enabled:
            return False

        def remove(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "DELETE FROM responses WHERE id = ? AND caller IN (?, ?)", (id, *self.owner.sees)
            )
            return cursor.rowcount > 0

        return self._run(remove, write=True)

    def conversation(self, id: str, max_bytes: int) -> list[bytes]:
        """Return the JSON of all items that led to a response, its output last.

        Raises:
            ChainBroken: the response, or one that it continues, is no longer stored.
            ChainTooLong: the JSON of these responses has more than ``max_bytes``.
            ChainUnfinished: the response, or one that it continues, is not finished.
        """
        if not self.enabled:
            raise ChainBroken(id)

        def read(connection: sqlite3.Connection) -> list[bytes]:
            chain = connection.execute(
                _CHAIN + "SELECT number, previous, size FROM chain ORDER BY number",
                self._chain(id),
            ).fetchall()
            if not chain:
                raise ChainBroken(id)
            if sum(size for _, _, size in chain) > max_bytes:
                raise ChainTooLong
            missing = chain[0][1]
            if missing is not None:
                raise ChainBroken(missing)
            unfinished = connection.execute(
                _CHAIN + "SELECT r.id FROM chain JOIN unfinished u ON u.response = chain.number"
                " JOIN responses r ON r.number = chain.number",
                self._chain(id),
            ).fetchone()
            if unfinished is not None:
                raise ChainUnfinished(unfinished[0])
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
                    "SELECT i.body FROM items i JOIN responses r ON r.number = i.response"
                    " WHERE i.id = ? AND r.caller IN (?, ?) ORDER BY i.response DESC LIMIT 1",
                    (id, *self.owner.sees),
                ).fetchone()
                if row is None:
                    row = connection.execute(
                        "SELECT i.body FROM conversation_items i"
                        " JOIN conversations c ON c.number = i.conversation"
                        " WHERE i.id = ? AND c.caller IN (?, ?) ORDER BY i.number DESC LIMIT 1",
                        (id, *self.owner.sees),
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
        self._file.close()

    def _run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        return self._file.run(work, write=write)


def delete_everything(path: Path) -> tuple[int, int, int]:
    """Delete what a file stores; return the numbers of responses, conversations and freed bytes.

    Other processes may use the file. Damaged files that a server has set aside, and copies of what
    a restore has replaced, are deleted too.

    Raises:
        StoreFailed: the file cannot be used.
        StoreBusy: another process has locked it.
        OSError: one of these files cannot be deleted.
    """
    before = sum(file.stat().st_size for file in files_of(path))
    responses, conversations = 0, 0
    if path.exists():
        file = StoreFile(path, 1, 1)
        try:
            responses, conversations = file.clear()
        finally:
            file.close()
    for earlier in files_aside(path):
        earlier.unlink(missing_ok=True)
    after = sum(file.stat().st_size for file in files_of(path))
    return responses, conversations, max(before - after, 0)
