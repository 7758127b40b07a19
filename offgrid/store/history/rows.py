"""What the history returns: conversations and messages, and how they are read from the tables."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import msgspec

from offgrid.store.history.message import Json, folded

COLUMNS = (
    "id, title, pinned, created_at, updated_at, revision, head, settings, count, preview, number"
)


@dataclass(frozen=True, slots=True)
class Info:
    """A conversation without its messages.

    Attributes:
        settings: their JSON.
        count: the number of messages.
        preview: the beginning of the latest text.
        number: its number in the file.
    """

    id: str
    title: str
    pinned: bool
    created_at: int
    updated_at: int
    revision: int
    head: str | None
    settings: bytes
    count: int
    preview: str
    number: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in the file: its JSON, and the revision of its conversation at its last change."""

    body: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation with messages; ``more`` if it has further ones, with later revisions."""

    info: Info
    messages: tuple[Stored, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of a conversation's fields; None leaves a field as it is."""

    title: str | None = None
    pinned: bool | None = None
    head: str | None = None
    settings: Json | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: numbers of conversations, and of messages that are new or changed."""

    created: int
    changed: int
    unchanged: int
    messages: int
    ids: tuple[str, ...]


def exists(connection: sqlite3.Connection, number: int) -> bool:
    """Return whether there is a conversation with a number."""
    row = connection.execute("SELECT 1 FROM conversations WHERE number = ?", (number,)).fetchone()
    return row is not None


def read_info(connection: sqlite3.Connection, number: int) -> Info:
    """Return a conversation that exists."""
    return info_of(
        connection.execute(
            f"SELECT {COLUMNS} FROM conversations WHERE number = ?", (number,)
        ).fetchone()
    )


def info_of(row: tuple[object, ...]) -> Info:
    """Return the conversation of a row with :data:`COLUMNS`."""
    id, title, pinned, *rest = row
    return Info(id, title, bool(pinned), *rest)  # type: ignore[arg-type]


def last_revision(connection: sqlite3.Connection, number: int, since: int, max_bytes: int) -> int:
    """Return the last revision whose messages still belong to a part of so many bytes."""
    rows = connection.execute(
        "SELECT revision, sum(length(body)) FROM messages"
        " WHERE conversation = ? AND revision > ? GROUP BY revision ORDER BY revision",
        (number, since),
    )
    last, total = since, 0
    for revision, size in rows:
        total += size
        if total > max_bytes and last > since:
            break
        last = revision
    return last


def follows(connection: sqlite3.Connection, number: int, revision: int) -> bool:
    """Return whether messages changed after a revision."""
    row = connection.execute(
        "SELECT 1 FROM messages WHERE conversation = ? AND revision > ? LIMIT 1",
        (number, revision),
    ).fetchone()
    return row is not None


def change(connection: sqlite3.Connection, before: Info, changes: Changes) -> int:
    """Write the fields that differ; return by how many bytes the conversation has grown."""
    settings = before.settings
    if changes.settings is not None:
        settings = msgspec.json.encode(changes.settings)
    title = before.title if changes.title is None else changes.title
    pinned = before.pinned if changes.pinned is None else changes.pinned
    head = before.head if changes.head is None else changes.head
    new = (title, pinned, head, settings)
    if new == (before.title, before.pinned, before.head, before.settings):
        return 0
    grown = len(title.encode()) + len(settings) - len(before.title.encode()) - len(before.settings)
    connection.execute(
        "UPDATE conversations SET title = ?, searched = ?, pinned = ?, head = ?, settings = ?,"
        " size = size + ?, revision = revision + 1 WHERE number = ?",
        (title, folded(title), pinned, head, settings, grown, before.number),
    )
    return grown
