"""The history as an owner sees it: lists, reads and changes conversations."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from offgrid.config import Commit, Settings
from offgrid.errors import HistoryFull
from offgrid.store.file import Owner
from offgrid.store.history.adding import Adding, check_head, make, within
from offgrid.store.history.file import HistoryFile, forget_words
from offgrid.store.history.message import Conversation, StoredMessage
from offgrid.store.history.rows import (
    COLUMNS,
    Changes,
    Imported,
    Info,
    Opened,
    Stored,
    change,
    exists,
    follows,
    info_of,
    last_revision,
    read_info,
)
from offgrid.store.history.search import condition, while_wanted

T = TypeVar("T")


@dataclass
class _Rules:
    """The settings in force, which all views of a history share."""

    max_bytes: int
    enabled: bool


class ConversationUnknown(Exception):
    """The conversation after which a page should begin is not there."""


class HistoryStore:
    """The conversations of one file. Thread-safe.

    Args:
        path: the file; see :class:`~offgrid.store.history.file.HistoryFile`.
        max_bytes: most bytes of each owner's conversations.
        enabled: whether there is a history; if not, the file is not touched.

    All methods raise StoreFailed if the file cannot be used, and StoreBusy if another process has
    locked it. Methods that return None found no conversation with that id. Methods that change
    something raise HistoryFull, or :class:`~offgrid.store.history.adding.Refused`; then nothing is
    changed.
    """

    def __init__(self, path: Path, max_bytes: int, *, enabled: bool = True) -> None:
        self._file = HistoryFile(path)
        self._rules = _Rules(max_bytes, enabled)
        self._owner = Owner()

    @classmethod
    def of_settings(cls, settings: Settings) -> HistoryStore:
        """Return the history that the settings describe."""
        size = settings.max_history_mb << 20
        return cls(settings.history_file, size, enabled=settings.history)

    def of(self, owner: Owner) -> HistoryStore:
        """Return the same history as an owner sees it."""
        view = copy.copy(self)
        view._owner = owner
        return view

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""

        def commit() -> None:
            self._rules.max_bytes = settings.max_history_mb << 20
            self._rules.enabled = settings.history

        return commit

    @property
    def enabled(self) -> bool:
        """Whether there is a history."""
        return self._rules.enabled

    def page(
        self,
        query: str,
        after: str | None,
        limit: int,
        wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[list[Info], bool]:
        """Return conversations, pinned ones first, then the latest; and whether more follow.

        Args:
            query: what they contain; see :mod:`offgrid.store.history.search`.
            after: id of the conversation after which they begin, None for the first.
            limit: most conversations.
            wanted: says whether the result is still wanted; a search in a large history takes
                seconds.

        Raises:
            ConversationUnknown: there is no conversation ``after``.
            SearchEnded: the result is not wanted any more.
        """

        def read(connection: sqlite3.Connection) -> tuple[list[Info], bool]:
            matches, values = condition(connection, query)
            begin: tuple[int, int] = (2, 0)
            if after is not None:
                begin = self._place(connection, after)
            with while_wanted(connection, wanted):
                rows = connection.execute(
                    f"SELECT {COLUMNS} FROM conversations c WHERE caller IN (?, ?)"
                    f" AND (pinned, used) < (?, ?) AND {matches}"
                    " ORDER BY pinned DESC, used DESC LIMIT ?",
                    (*self._owner.sees, *begin, *values, limit + 1),
                ).fetchall()
            return [*map(info_of, rows[:limit])], len(rows) > limit

        return self._file.run(read)

    def _place(self, connection: sqlite3.Connection, id: str) -> tuple[int, int]:
        number = self._number(connection, id)
        if number is None:
            raise ConversationUnknown
        row: tuple[int, int] = connection.execute(
            "SELECT pinned, used FROM conversations WHERE number = ?", (number,)
        ).fetchone()
        return row

    def create(self, conversation: Conversation) -> Info:
        """Store a new conversation. If there is one with its id, its messages are merged into that
        one, and the other fields are left as they are there.

        Args:
            conversation: with an id.
        """

        def write(connection: sqlite3.Connection) -> Info:
            number, adding = self._merge(connection, conversation)
            self._check_size(connection, number, adding.grown)
            return read_info(connection, number)

        return self._file.run(write, write=True)

    def bring(self, conversations: Sequence[Conversation]) -> Imported:
        """Store conversations as :meth:`create` does: all of them, or none.

        Raises:
            Refused: the place begins with the number of the conversation.
        """

        def write(connection: sqlite3.Connection) -> Imported:
            done: list[Adding] = []
            grown: dict[str, tuple[int, int]] = {}
            for index, conversation in enumerate(conversations):
                with within(f"conversations[{index}]."):
                    number, adding = self._merge(connection, conversation)
                done.append(adding)
                _, before = grown.get(adding.caller, (number, 0))
                grown[adding.caller] = number, before + adding.grown
            # Once, since it adds up all conversations of an owner.
            for number, size in grown.values():
                self._check_size(connection, number, size)
            return Imported(
                created=sum(one.is_new for one in done),
                changed=sum(not one.is_new and one.changed > 0 for one in done),
                unchanged=sum(not one.is_new and not one.changed for one in done),
                messages=sum(one.changed for one in done),
                ids=tuple(str(conversation.id) for conversation in conversations),
            )

        return self._file.run(write, write=True)

    def _merge(
        self, connection: sqlite3.Connection, conversation: Conversation
    ) -> tuple[int, Adding]:
        """Store a conversation, whatever its size; return its number, and what was done."""
        assert conversation.id is not None
        number = self._number(connection, conversation.id)
        is_new = number is None
        if number is None:
            number = make(connection, conversation, self._owner.id)
        adding = Adding(connection, number, is_new=is_new)
        adding.add(conversation.messages)
        if is_new:
            adding.finish(conversation.head, conversation.updated_at)
        else:
            adding.finish(None, None, keeps_head=True)
        return number, adding

    def append(self, id: str, messages: Sequence[StoredMessage], head: str | None) -> Info | None:
        """Add messages, or newer versions of running ones.

        Args:
            id: the conversation.
            messages: a parent comes before its children.
            head: the message that is shown last; None for the last new one.
        """

        def write(connection: sqlite3.Connection) -> Info | None:
            number = self._number(connection, id)
            if number is None:
                return None
            adding = Adding(connection, number)
            adding.add(messages)
            adding.finish(head, None)
            self._check_size(connection, number, adding.grown)
            return read_info(connection, number)

        return self._file.run(write, write=True)

    def _check_size(self, connection: sqlite3.Connection, number: int, grown: int) -> None:
        if grown <= 0:
            return
        (size,) = connection.execute(
            "SELECT sum(size) FROM conversations WHERE caller ="
            " (SELECT caller FROM conversations WHERE number = ?)",
            (number,),
        ).fetchone()
        if size > self._rules.max_bytes:
            raise HistoryFull(size, self._rules.max_bytes)

    def get(self, id: str, since: int = 0, max_bytes: int = 1 << 62) -> Opened | None:
        """Return a conversation with the messages that changed after a revision.

        Args:
            id: the conversation.
            since: the revision; 0 for all messages.
            max_bytes: about how many bytes of messages are read. Those of one revision are never
                divided, so reading can go on after the revision of the last one.
        """

        def read(connection: sqlite3.Connection) -> Opened | None:
            number = self._number(connection, id)
            if number is None:
                return None
            last = last_revision(connection, number, since, max_bytes)
            rows = connection.execute(
                "SELECT body, revision FROM messages"
                " WHERE conversation = ? AND revision > ? AND revision <= ? ORDER BY number",
                (number, since, last),
            )
            messages = tuple(Stored(body, revision) for body, revision in rows)
            info = read_info(connection, number)
            return Opened(
                info, messages, last < info.revision and follows(connection, number, last)
            )

        return self._file.run(read)

    def update(self, id: str, changes: Changes) -> Info | None:
        """Change fields of a conversation; the last writer of each field wins.

        Raises:
            Refused: the head is not a message of it.
        """

        def write(connection: sqlite3.Connection) -> Info | None:
            number = self._number(connection, id)
            if number is None:
                return None
            if changes.head is not None:
                check_head(connection, number, changes.head)
            grown = change(connection, read_info(connection, number), changes)
            self._check_size(connection, number, grown)
            return read_info(connection, number)

        return self._file.run(write, write=True)

    def delete(self, id: str) -> bool:
        """Delete a conversation with its messages; return whether there was one."""

        def remove(connection: sqlite3.Connection) -> bool:
            number = self._number(connection, id)
            if number is None:
                return False
            connection.execute("DELETE FROM conversations WHERE number = ?", (number,))
            forget_words(connection)
            return True

        was_there = self._file.run(remove, write=True)
        if was_there:
            self._file.empty_log()
        return was_there

    def find(self, id: str) -> Info | None:
        """Return a conversation without its messages."""

        def read(connection: sqlite3.Connection) -> Info | None:
            number = self._number(connection, id)
            return None if number is None else read_info(connection, number)

        return self._file.run(read)

    def all(self) -> list[int]:
        """Return the numbers of all conversations, the latest last."""

        def read(connection: sqlite3.Connection) -> list[int]:
            rows = connection.execute(
                "SELECT number FROM conversations WHERE caller IN (?, ?) ORDER BY used",
                self._owner.sees,
            )
            return [number for (number,) in rows]

        return self._file.run(read)

    def read(self, number: int) -> Info | None:
        """Return a conversation of :meth:`all` without its messages; None if it was deleted."""

        def read(connection: sqlite3.Connection) -> Info | None:
            return read_info(connection, number) if exists(connection, number) else None

        return self._file.run(read)

    def outline(self, info: Info) -> list[tuple[int, str, str | None, int]]:
        """Return number, id, parent, and bytes of each message, a parent before its children."""

        def read(connection: sqlite3.Connection) -> list[tuple[int, str, str | None, int]]:
            return connection.execute(
                "SELECT number, id, parent, length(body) FROM messages WHERE conversation = ?"
                " ORDER BY number",
                (info.number,),
            ).fetchall()

        return self._file.run(read)

    def bodies(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the JSON of messages in this order, without those that are deleted meanwhile."""

        def read(connection: sqlite3.Connection) -> list[bytes]:
            found = []
            for number in numbers:
                row = connection.execute(
                    "SELECT body FROM messages WHERE number = ?", (number,)
                ).fetchone()
                found += [] if row is None else [row[0]]
            return found

        return self._file.run(read)

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._file.close()

    def _number(self, connection: sqlite3.Connection, id: str) -> int | None:
        """Return the number of a conversation that the owner sees; its own one comes first."""
        rows = connection.execute(
            "SELECT number, caller FROM conversations WHERE id = ? AND caller IN (?, ?)",
            (id, *self._owner.sees),
        ).fetchall()
        rows.sort(key=lambda row: bool(row[1] != self._owner.id))
        return rows[0][0] if rows else None
