"""``/v1/history``: lists, reads, changes, exports and imports conversations."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Iterator

import falcon
import msgspec
from msgspec import structs

from offgrid.api.history import exports
from offgrid.api.history.request import (
    parse_changes,
    parse_export,
    parse_messages,
    parse_new,
    parse_text,
    refusals,
)
from offgrid.api.history.shapes import MAX_PAGE
from offgrid.api.http.request import liveness, read_checked, read_text
from offgrid.api.http.scopes import HISTORY
from offgrid.api.ownership import own
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import ClientGone
from offgrid.errors import HistoryOff, InvalidParameter, NotStored
from offgrid.store.history.message import Conversation
from offgrid.store.history.rows import Changes, Info
from offgrid.store.history.search import MAX_QUERY, SearchEnded
from offgrid.store.history.store import ConversationUnknown, HistoryStore

_DEFAULT_PAGE = 30
_MOST_AT_ONCE = 8 << 20
"""Bytes of messages in one answer, if a single revision has no more."""
_MARKDOWN = "text/markdown"
_NOT_IN_NAME = re.compile(r"[^\w-]+")


class _History:
    """Base of the resources: the history of the caller."""

    scopes = HISTORY

    def __init__(self, settings: Settings, store: HistoryStore) -> None:
        self._max_body = settings.max_body_mb << 20
        self._shared = store

    @property
    def _store(self) -> HistoryStore:
        """The caller's view.

        Raises:
            HistoryOff: the server stores no history.
        """
        if not self._shared.enabled:
            raise HistoryOff
        return own(self._shared)


class HistoryResource(_History):
    """The list of conversations."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List conversations, pinned ones first, then the latest; all, or those with a text."""
        query = req.get_param("query", default="")
        if len(query) > MAX_QUERY:
            raise InvalidParameter(
                f"query has {len(query)} characters, at most {MAX_QUERY}.", "query"
            )
        limit = _number(req, "limit", _DEFAULT_PAGE, 1, MAX_PAGE)
        after = req.get_param("after")
        try:
            infos, more = self._store.page(query, after, limit, liveness(req))
        except ConversationUnknown:
            raise InvalidParameter(
                f"after: no conversation has the id {str(after)[:80]!r}; leave after out.",
                "after",
            ) from None
        except SearchEnded:
            raise ClientGone from None
        page = {
            "object": "list",
            "data": [*map(described, infos)],
            "first_id": infos[0].id if infos else None,
            "last_id": infos[-1].id if infos else None,
            "has_more": more,
        }
        _answer(resp, page)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store a new conversation; add to one that is there, if it has the same id."""
        store = self._store
        new = read_checked(req, self._max_body, parse_new, optional=True)
        conversation = _with_id(Conversation(**structs.asdict(new)))
        with refusals():
            _answer(resp, described(store.create(conversation)))


class HistoryConversationResource(_History):
    """One conversation."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the conversation with its messages, or those changed after a revision."""
        since = _number(req, "since", 0, 0, (1 << 53) - 1)
        opened = self._store.get(id, since, _MOST_AT_ONCE)
        if opened is None:
            raise _unknown(id)
        messages = [
            msgspec.Raw(b'%b,"revision":%d}' % (stored.body[:-1], stored.revision))
            for stored in opened.messages
        ]
        more = {"messages": messages, "has_more": opened.more}
        _answer(resp, {**described(opened.info), **more})

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Change title, pinned, head or settings; the last writer of each wins."""
        store = self._store
        given = read_checked(req, self._max_body, parse_changes)
        with refusals():
            info = store.update(id, Changes(**structs.asdict(given)))
        if info is None:
            raise _unknown(id)
        _answer(resp, described(info))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Delete the conversation with its messages."""
        if not self._store.delete(id):
            raise _unknown(id)
        resp.media = {"id": id, "object": "history.conversation.deleted", "deleted": True}


class HistoryMessagesResource(_History):
    """The messages of a conversation."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Add messages, or newer versions of running ones; return the conversation."""
        store = self._store
        given = read_checked(req, self._max_body, parse_messages)
        with refusals():
            info = store.append(id, given.messages, given.head)
        if info is None:
            raise _unknown(id)
        _answer(resp, described(info))


class HistoryConversationExportResource(_History):
    """The export of one conversation."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Send the conversation as a file: JSON with all branches, or Markdown with one."""
        store = self._store
        form = req.get_param("format", default="json")
        if form not in ("json", "markdown"):
            raise InvalidParameter("format must be json or markdown.", "format")
        info = store.find(id)
        if info is None:
            raise _unknown(id)
        name = _NOT_IN_NAME.sub("-", info.title).strip("-")[:60] or info.id
        if form == "markdown":
            _send(
                resp, exports.as_markdown(store, info), f"{_MARKDOWN}; charset=utf-8", f"{name}.md"
            )
        else:
            _send(resp, exports.as_json(store, [info]), falcon.MEDIA_JSON, f"{name}.json")

    on_head = on_get


class HistoryExportResource(_History):
    """The export of all conversations."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send all conversations as a file, with all branches."""
        store = self._store
        # One after the other: the settings of all of them may not have room in memory.
        found = filter(None, map(store.read, store.all()))
        _send(resp, exports.as_json(store, found), falcon.MEDIA_JSON, "history.json")

    on_head = on_get


class HistoryImportResource(_History):
    """The import of exported conversations."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store all conversations of an export, or none."""
        store = self._store
        is_markdown = (req.content_type or "").partition(";")[0].strip().lower() == _MARKDOWN
        brought: list[Conversation] = []
        if is_markdown:
            brought.append(_with_id(read_text(req, self._max_body, parse_text)))
        else:
            brought += read_checked(req, self._max_body, parse_export).conversations
        with refusals():
            done = store.bring(brought)
        _answer(resp, {"object": "history.import", **dataclasses.asdict(done)})


def described(info: Info) -> Json:
    """Return a conversation as the API shows it."""
    return {
        "id": info.id,
        "object": "history.conversation",
        "title": info.title,
        "pinned": info.pinned,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "revision": info.revision,
        "head": info.head,
        "settings": msgspec.Raw(info.settings),
        "messages_count": info.count,
        "preview": info.preview,
    }


def new_id() -> str:
    """Return a new id of a conversation."""
    return f"chat_{secrets.token_hex(16)}"


def _with_id(conversation: Conversation) -> Conversation:
    return conversation if conversation.id else structs.replace(conversation, id=new_id())


def _answer(resp: falcon.Response, value: Json) -> None:
    """Set the body of a response; a part of it may be JSON already."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(value)


def _send(resp: falcon.Response, file: Iterator[bytes], kind: str, name: str) -> None:
    """Send a file for download, while it is written."""
    resp.content_type = kind
    resp.downloadable_as = name
    resp.stream = file


def _unknown(id: str) -> NotStored:
    return NotStored(f"Conversation with id {id[:80]!r} not found.", "id")


def _number(req: falcon.Request, name: str, default: int, least: int, most: int) -> int:
    """Return a query parameter that is a whole number."""
    text = req.get_param(name)
    if text is None:
        return default
    # Python refuses to convert thousands of digits.
    value = int(text) if len(text) < 17 and text.isascii() and text.isdigit() else -1
    if not least <= value <= most:
        raise InvalidParameter(f"{name} must be {least} to {most}.", name)
    return value
