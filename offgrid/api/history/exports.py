"""Exports of the history, written while they are sent: no more than one part is in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from offgrid.api.history.request import VERSION
from offgrid.api.history.shapes import FORMAT
from offgrid.store.history.markdown import written_message, written_title
from offgrid.store.history.message import StoredMessage
from offgrid.store.history.rows import Info
from offgrid.store.history.store import HistoryStore

_AT_ONCE = 1 << 20
"""Bytes of messages that are read at a time, if a single one has no more."""


def as_json(store: HistoryStore, conversations: Iterable[Info]) -> Iterator[bytes]:
    """Write conversations as JSON, with all branches."""
    head = {"object": FORMAT, "version": VERSION, "exported_at": int(time.time())}
    yield msgspec.json.encode(head)[:-1] + b',"conversations":['
    separator = b"\n"
    for info in conversations:
        yield separator
        separator = b",\n"
        yield from _conversation(store, info)
    yield b"\n]}\n"


def _conversation(store: HistoryStore, info: Info) -> Iterator[bytes]:
    yield msgspec.json.encode(fields_of(info))[:-1] + b',"messages":['
    separator = b"\n"
    outline = store.outline(info)
    written = 0
    for body in _bodies(store, [(number, size) for number, _, _, size in outline]):
        yield separator + body
        separator = b",\n"
        written += 1
    head = info.head
    if written < len(outline):  # It was deleted meanwhile.
        head = outline[written - 1][1] if written else None
    yield b'],"head":' + msgspec.json.encode(head) + b"}"


def fields_of(info: Info) -> dict[str, object]:
    """Return the fields of a conversation that an export has, without head and messages."""
    return {
        "id": info.id,
        "object": "history.conversation",
        "title": info.title,
        "pinned": info.pinned,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "settings": msgspec.Raw(info.settings),
    }


def as_markdown(store: HistoryStore, info: Info) -> Iterator[bytes]:
    """Write the branch of a conversation that its head shows, as Markdown."""
    yield written_title(info.title, fields_of(info)).encode()
    for body in _bodies(store, branch(store, info)):
        yield written_message(msgspec.json.decode(body, type=StoredMessage)).encode()


def branch(store: HistoryStore, info: Info) -> list[tuple[int, int]]:
    """Return number and bytes of the messages from the first one to the head."""
    by_id = {id: (number, parent, size) for number, id, parent, size in store.outline(info)}
    path: list[tuple[int, int]] = []
    id = info.head
    while id is not None and id in by_id:  # A parent is older, so this ends.
        number, id, size = by_id[id]
        path.append((number, size))
    return path[::-1]


def _bodies(store: HistoryStore, outline: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Read messages, given as number and bytes, in parts."""
    part: list[int] = []
    total = 0
    for number, size in outline:
        if part and total + size > _AT_ONCE:
            yield from store.bodies(part)
            part, total = [], 0
        part.append(number)
        total += size
    yield from store.bodies(part)
