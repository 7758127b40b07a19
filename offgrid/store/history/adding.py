"""Adding messages to a conversation within a transaction: the rules of the tree, and its size."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import structs

from offgrid.store.history.message import (
    Conflict,
    Conversation,
    StoredMessage,
    folded,
    merged,
    preview_of,
    text_of,
)

MAX_MESSAGES = 10_000
"""Most messages of a conversation."""
_OVERHEAD = 256
"""Bytes that a conversation or a message counts besides its JSON."""


class Refused(Exception):
    """A change is not possible, and nothing was changed.

    Attributes:
        place: the field at fault, such as ``messages[3].parent``.
        reason: what is wrong with it, and what to do.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


class Differs(Refused):
    """A message with the id ``id`` is there, and finished, and differs."""

    def __init__(self, place: str, reason: str, id: str) -> None:
        super().__init__(place, reason)
        self.id = id


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
    """Put a place before those of errors."""
    try:
        yield
    except Refused as ex:
        ex.place = place + ex.place
        raise


class Adding:
    """Adds messages to one conversation.

    Attributes:
        caller: the owner of the conversation.
        is_new: whether the conversation was made for them.
        changed: number of messages that are new or replaced.
        grown: bytes by which the conversation has grown.
    """

    def __init__(
        self, connection: sqlite3.Connection, number: int, *, is_new: bool = False
    ) -> None:
        self._connection = connection
        self._number = number
        self.is_new = is_new
        self.changed = 0
        self.grown = _OVERHEAD if is_new else 0
        self._added = 0
        self._last: str | None = None
        self._text = ""
        self.caller, self._revision, self._count, self._head = connection.execute(
            "SELECT caller, revision + 1, count, head FROM conversations WHERE number = ?",
            (number,),
        ).fetchone()

    def add(self, messages: Sequence[StoredMessage]) -> None:
        """Add messages, or replace running ones.

        Raises:
            Refused: one of them cannot be added.
        """
        for index, message in enumerate(messages):
            with within(f"messages[{index}]."):
                self._add(message)

    def _add(self, message: StoredMessage) -> None:
        row = self._connection.execute(
            "SELECT number, body FROM messages WHERE conversation = ? AND id = ?",
            (self._number, message.id),
        ).fetchone()
        if row is None:
            self._insert(message)
        else:
            self._replace(row[0], row[1], message)

    def _insert(self, message: StoredMessage) -> None:
        if message.parent is not None and not has_message(
            self._connection, self._number, message.parent
        ):
            raise Refused(
                "parent",
                f"{message.parent} is not in the conversation; send a parent before its children",
            )
        if self._count + self._added >= MAX_MESSAGES:
            raise Refused("id", f"a conversation has at most {MAX_MESSAGES} messages")
        if message.created_at is None:
            message = structs.replace(message, created_at=int(time.time()))
        body = msgspec.json.encode(message)
        self._connection.execute(
            "INSERT INTO messages (conversation, id, parent, revision, searched, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (self._number, message.id, message.parent, self._revision, self._search(message), body),
        )
        self._added += 1
        self._last = message.id
        self._note(len(body) + _OVERHEAD)

    def _replace(self, number: int, body: bytes, message: StoredMessage) -> None:
        old = msgspec.json.decode(body, type=StoredMessage)
        try:
            new = merged(old, message)
        except Conflict as ex:
            raise Differs("id", ex.reason, message.id) from None
        if new is old:
            return
        replaced = msgspec.json.encode(new)
        self._connection.execute(
            "UPDATE messages SET revision = ?, searched = ?, body = ? WHERE number = ?",
            (self._revision, self._search(new), replaced, number),
        )
        self._note(len(replaced) - len(body))

    def _search(self, message: StoredMessage) -> str:
        text = text_of(message)
        self._text = preview_of(text) or self._text
        return folded(text)

    def _note(self, grown: int) -> None:
        self.changed += 1
        self.grown += grown

    def finish(self, head: str | None, updated_at: int | None, *, keeps_head: bool = False) -> None:
        """Write what the conversation is now; its revision grows if anything changed.

        Args:
            head: the new head; None for the last new message.
            updated_at: when its messages changed, None for now.
            keeps_head: whether a head that is there already stays.

        Raises:
            Refused: the head is not a message of the conversation.
        """
        if head is not None:
            check_head(self._connection, self._number, head)
        wanted = head or self._last or self._head
        if keeps_head and self._head is not None:
            wanted = self._head
        if not (self.changed or self.is_new or wanted != self._head):
            return
        self._connection.execute(
            "UPDATE conversations SET revision = ?, head = ?, count = count + ?, size = size + ?,"
            " preview = CASE WHEN ? = '' THEN preview ELSE ? END WHERE number = ?",
            (self._revision, wanted, self._added, self.grown, self._text, self._text, self._number),
        )
        if self.changed or self.is_new:
            self._use(int(time.time()) if updated_at is None else updated_at)

    def _use(self, updated_at: int) -> None:
        """Make it the latest conversation of the list."""
        self._connection.execute(
            "UPDATE conversations SET updated_at = ?,"
            " used = (SELECT max(used) + 1 FROM conversations) WHERE number = ?",
            (updated_at, self._number),
        )


def check_head(connection: sqlite3.Connection, number: int, head: str) -> None:
    """Raise Refused if a message is not in a conversation."""
    if not has_message(connection, number, head):
        raise Refused("head", f"the conversation has no message {head}")


def has_message(connection: sqlite3.Connection, number: int, id: str) -> bool:
    """Return whether a conversation has a message."""
    row = connection.execute(
        "SELECT 1 FROM messages WHERE conversation = ? AND id = ?", (number, id)
    ).fetchone()
    return row is not None


def make(connection: sqlite3.Connection, conversation: Conversation, caller: str) -> int:
    """Store a conversation without its messages; return its number."""
    now = int(time.time())
    created = now if conversation.created_at is None else conversation.created_at
    settings = msgspec.json.encode(conversation.settings)
    cursor = connection.execute(
        "INSERT INTO conversations (caller, id, title, searched, pinned, created_at, updated_at,"
        " used, revision, size, settings) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?)",
        (
            caller, conversation.id, conversation.title, folded(conversation.title),
            conversation.pinned, created, created, len(conversation.title.encode()) + len(settings),
            settings,
        ),
    )  # fmt: skip
    assert cursor.lastrowid is not None
    return cursor.lastrowid
