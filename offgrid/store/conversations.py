"""The stored conversations of ``/v1/conversations``: lists of items that grow."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from offgrid.errors import StoreFailed
from offgrid.store.file import Item, Owner, StoreFile, TooLong, next_use


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a conversation's items, and whether more follow."""

    items: tuple[Item, ...]
    more: bool


class ItemUnknown(Exception):
    """The item after which a page should begin is not in the conversation."""


class ItemRepeated(Exception):
    """A conversation already has an item with the id ``id``."""

    def __init__(self, id: str) -> None:
        super().__init__(f"The conversation already has an item {id}.")
        self.id = id


class ConversationStore:
    """The conversations of one file, as an owner sees them. Thread-safe.

    All methods raise StoreFailed if the file cannot be used, and StoreBusy if another process has
    locked it. Methods that return None found no conversation with that id.
    """

    def __init__(self, file: StoreFile, owner: Owner) -> None:
        self._file = file
        self._owner = owner

    @property
    def enabled(self) -> bool:
        """Whether conversations are stored."""
        return self._file.enabled

    def create(self, id: str, body: bytes, items: Sequence[Item]) -> None:
        """Store a new conversation; ``body`` is the JSON of its object.

        Raises:
            ItemRepeated: two items have the same id.
            StoreFailed: it exceeds the store's limit.
        """

        def write(connection: sqlite3.Connection) -> None:
            known = connection.execute("SELECT 1 FROM conversations WHERE id = ?", (id,)).fetchone()
            if known:
                return  # a repeated call, after a first one that had succeeded
            connection.execute(
                "INSERT INTO conversations (id, used, size, body, caller) VALUES (?, ?, ?, ?, ?)",
                (id, next_use(connection), len(body), body, self._owner.id),
            )
            append(self._file, connection, id, items, self._owner, repeated=False)
            self._file.evict(connection)

        self._file.run(write, write=True)

    def get(self, id: str) -> bytes | None:
        """Return the JSON of a conversation's object."""
        if not self.enabled:
            return None

        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT body FROM conversations WHERE id = ? AND caller IN (?, ?)",
                (id, *self._owner.sees),
            ).fetchone()
            return None if row is None else row[0]

        return self._file.run(read)

    def update(self, id: str, body: bytes) -> bool:
        """Replace a conversation's object; return whether there was one."""
        if not self.enabled:
            return False

        def write(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "UPDATE conversations SET size = size - length(body) + ?, body = ?, used = ?"
                " WHERE id = ? AND caller IN (?, ?)",
                (len(body), body, next_use(connection), id, *self._owner.sees),
            )
            self._file.evict(connection)
            return cursor.rowcount > 0

        return self._file.run(write, write=True)

    def delete(self, id: str) -> bool:
        """Remove a conversation with its items; return whether there was one."""
        if not self.enabled:
            return False

        def remove(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "DELETE FROM conversations WHERE id = ? AND caller IN (?, ?)",
                (id, *self._owner.sees),
            )
            return cursor.rowcount > 0

        return self._file.run(remove, write=True)

    def add(self, id: str, items: Sequence[Item]) -> bool:
        """Append items; return whether there is such a conversation.

        Raises:
            ItemRepeated: the conversation has an item with the id of one of them.
            StoreFailed: the conversation would exceed the store's limit.
        """
        if not self.enabled:
            return False

        def write(connection: sqlite3.Connection) -> bool:
            found = append(self._file, connection, id, items, self._owner, repeated=False)
            self._file.evict(connection)
            return found

        return self._file.run(write, write=True)

    def extend(self, id: str, items: Sequence[Item]) -> bool:
        """Append the items that the conversation does not have yet; otherwise as :meth:`add`."""
        if not self.enabled:
            return False

        def write(connection: sqlite3.Connection) -> bool:
            found = append(self._file, connection, id, items, self._owner)
            self._file.evict(connection)
            return found

        return self._file.run(write, write=True)

    def items(self, id: str, max_bytes: int) -> list[bytes] | None:
        """Return the JSON of all items, in order.

        Raises:
            TooLong: they have more than ``max_bytes``.
        """
        if not self.enabled:
            return None

        def read(connection: sqlite3.Connection) -> list[bytes] | None:
            row = _find(connection, id, self._owner)
            if row is None:
                return None
            number, size = row
            if size > max_bytes:
                raise TooLong
            rows = connection.execute(
                "SELECT body FROM conversation_items WHERE conversation = ? ORDER BY number",
                (number,),
            )
            return [body for (body,) in rows]

        return self._file.run(read)

    def page(self, id: str, after: str | None, limit: int, *, latest_first: bool) -> Page | None:
        """Return some items.

        Args:
            id: the conversation.
            after: id of the item after which they begin, None for the first.
            limit: most items to return.
            latest_first: whether the order is that of time reversed.

        Raises:
            ItemUnknown: the conversation has no item ``after``.
        """
        if not self.enabled:
            return None
        order, compare, start = ("DESC", "<", 1 << 62) if latest_first else ("ASC", ">", 0)

        def read(connection: sqlite3.Connection) -> Page | None:
            row = _find(connection, id, self._owner)
            if row is None:
                return None
            begin = start
            if after is not None:
                found = connection.execute(
                    "SELECT number FROM conversation_items WHERE conversation = ? AND id = ?",
                    (row[0], after),
                ).fetchone()
                if found is None:
                    raise ItemUnknown
                begin = found[0]
            rows = connection.execute(
                "SELECT id, body FROM conversation_items"
                f" WHERE conversation = ? AND number {compare} ? ORDER BY number {order} LIMIT ?",
                (row[0], begin, limit + 1),
            ).fetchall()
            items = tuple(Item(item, body) for item, body in rows[:limit])
            return Page(items, len(rows) > limit)

        return self._file.run(read)

    def item(self, id: str, item: str) -> bytes | None:
        """Return the JSON of one item; None if the conversation or the item does not exist."""
        if not self.enabled:
            return None

        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT i.body FROM conversation_items i JOIN conversations c"
                " ON c.number = i.conversation WHERE c.id = ? AND i.id = ?"
                " AND c.caller IN (?, ?)",
                (id, item, *self._owner.sees),
            ).fetchone()
            return None if row is None else row[0]

        return self._file.run(read)

    def remove(self, id: str, item: str) -> bool:
        """Remove one item; return whether there was one."""
        if not self.enabled:
            return False

        def write(connection: sqlite3.Connection) -> bool:
            row = _find(connection, id, self._owner)
            if row is None:
                return False
            found = connection.execute(
                "SELECT number, length(body) FROM conversation_items"
                " WHERE conversation = ? AND id = ?",
                (row[0], item),
            ).fetchone()
            if found is None:
                return False
            connection.execute("DELETE FROM conversation_items WHERE number = ?", (found[0],))
            connection.execute(
                "UPDATE conversations SET size = size - ? WHERE number = ?", (found[1], row[0])
            )
            return True

        return self._file.run(write, write=True)


def append(
    file: StoreFile,
    connection: sqlite3.Connection,
    id: str,
    items: Sequence[Item],
    owner: Owner,
    *,
    repeated: bool = True,
) -> bool:
    """Append items to a conversation within a transaction; return whether it exists.

    Args:
        file: its limits apply.
        connection: inside a transaction that writes.
        id: the conversation.
        items: in order.
        owner: who must own the conversation.
        repeated: whether items that the conversation already has, by their ids, are left out.

    Raises:
        ItemRepeated: an item is there already, and ``repeated`` is false.
        StoreFailed: the conversation would exceed the store's limit.
    """
    row = _find(connection, id, owner)
    if row is None:
        return False
    size = row[1]
    for item in items:
        cursor = connection.execute(
            "INSERT OR IGNORE INTO conversation_items (conversation, id, body) VALUES (?, ?, ?)",
            (row[0], item.id, item.body),
        )
        if cursor.rowcount > 0:
            size += len(item.body)
        elif not repeated:
            raise ItemRepeated(item.id)
    if size > file.max_bytes:
        raise StoreFailed(f"A conversation of {size} bytes is more than the store may hold.")
    connection.execute(
        "UPDATE conversations SET size = ?, used = ? WHERE number = ?",
        (size, next_use(connection), row[0]),
    )
    return True


def _find(connection: sqlite3.Connection, id: str, owner: Owner) -> tuple[int, int] | None:
    """Return number and size of a conversation."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT number, size FROM conversations WHERE id = ? AND caller IN (?, ?)",
        (id, *owner.sees),
    ).fetchone()
    return row
