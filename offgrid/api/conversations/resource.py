"""``/v1/conversations``: conversations on disk, and their items."""

from __future__ import annotations

import time

import falcon
import msgspec

from offgrid.api.conversations.shapes import (
    MAX_ITEMS,
    ConversationRequest,
    ConversationUpdate,
    ItemsRequest,
)
from offgrid.api.fields.common import check_fields
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import HISTORY
from offgrid.api.ownership import own
from offgrid.api.responses.history import History, as_stored, no_conversation
from offgrid.api.responses.items import Given, new_id, parse_items
from offgrid.api.responses.lenient import without_nulls
from offgrid.api.responses.resource import check_include, read_page
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.errors import InvalidParameter, NotStored
from offgrid.store.conversations import ConversationStore, ItemRepeated, ItemUnknown, Page
from offgrid.store.file import Item
from offgrid.store.responses import ResponseStore


class _Conversations:
    """Base of the resources: the conversations of the caller."""

    scopes = HISTORY
    _shared: ResponseStore

    @property
    def _store(self) -> ConversationStore:
        return own(self._shared).conversations


class ConversationsResource(_Conversations):
    """``POST /v1/conversations``: creates a conversation."""

    def __init__(self, settings: Settings, store: ResponseStore) -> None:
        self._max_body = settings.max_body_mb << 20
        self._history = History(store, self._max_body)
        self._shared = store

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store a conversation, with the items that the request gives it."""
        request, given = read_checked(req, self._max_body, parse_conversation, optional=True)
        if not self._store.enabled:
            raise InvalidParameter("This server stores no conversations (OFFGRID_MAX_RESPONSES).")
        items = self._history.resolve(given, "items").items
        conversation: Json = {
            "id": new_id("conv"),
            "object": "conversation",
            "created_at": int(time.time()),
            "metadata": request.metadata,
        }
        try:
            self._store.create(
                conversation["id"], msgspec.json.encode(conversation), [*map(as_stored, items)]
            )
        except ItemRepeated as ex:
            raise _repeated(ex) from None
        resp.media = conversation


class ConversationResource(_Conversations):
    """One conversation."""

    def __init__(self, settings: Settings, store: ResponseStore) -> None:
        self._max_body = settings.max_body_mb << 20
        self._shared = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the conversation, without its items."""
        resp.media = _find(self._store, id)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Replace the metadata."""
        update = read_checked(req, self._max_body, parse_update)
        conversation = {**_find(self._store, id), "metadata": update.metadata}
        if not self._store.update(id, msgspec.json.encode(conversation)):
            raise no_conversation(id, "conversation_id")
        resp.media = conversation

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Remove the conversation with its items. Responses that belong to it stay."""
        if not self._store.delete(id):
            raise no_conversation(id, "conversation_id")
        resp.media = {"id": id, "object": "conversation.deleted", "deleted": True}


class ConversationItemsResource(_Conversations):
    """The items of a conversation."""

    def __init__(self, settings: Settings, store: ResponseStore) -> None:
        self._max_body = settings.max_body_mb << 20
        self._history = History(store, self._max_body)
        self._shared = store

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Add items; return them."""
        check_include(req)
        given = read_checked(req, self._max_body, parse_new_items)
        items = [*map(as_stored, self._history.resolve(given, "items").items)]
        try:
            found = self._store.add(id, items)
        except ItemRepeated as ex:
            raise _repeated(ex) from None
        if not found:
            raise no_conversation(id, "conversation_id")
        resp.media = _listed(Page(tuple(items), more=False))

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """List the items, in pages."""
        check_include(req)
        limit, latest_first = read_page(req)
        after = req.get_param("after")
        try:
            page = self._store.page(id, after, limit, latest_first=latest_first)
        except ItemUnknown:
            raise InvalidParameter(f"No item has the id {str(after)[:80]!r}.", "after") from None
        if page is None:
            raise no_conversation(id, "conversation_id")
        resp.media = _listed(page)

    on_head = on_get


class ConversationItemResource(_Conversations):
    """One item of a conversation."""

    def __init__(self, store: ResponseStore) -> None:
        self._shared = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str, item_id: str) -> None:
        """Return the item."""
        check_include(req)
        body = self._store.item(id, item_id)
        if body is None:
            raise _no_item(item_id)
        resp.media = msgspec.json.decode(body)

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str, item_id: str) -> None:
        """Remove the item; return the conversation."""
        if not self._store.remove(id, item_id):
            raise _no_item(item_id)
        resp.media = _find(self._store, id)


def parse_conversation(body: Json) -> tuple[ConversationRequest, list[Given]]:
    """Check the body of a request for a conversation; return it and its items."""
    request = check_fields(_outside_items(body), ConversationRequest)
    items = parse_items(request.items, "items", MAX_ITEMS) if request.items else []
    return request, items


def parse_update(body: Json) -> ConversationUpdate:
    """Check the body of an update."""
    return check_fields(without_nulls(body), ConversationUpdate)


def parse_new_items(body: Json) -> list[Given]:
    """Check the body of a request for more items; return these."""
    request = check_fields(_outside_items(body), ItemsRequest)
    return parse_items(request.items, "items", MAX_ITEMS)


def _outside_items(body: Json) -> Json:
    """Return a body without nulls; items are searched for them when they are read."""
    return {key: value if key == "items" else without_nulls(value) for key, value in body.items()}


def _find(store: ConversationStore, id: str) -> Json:
    body = store.get(id)
    if body is None:
        raise no_conversation(id, "conversation_id")
    conversation: Json = msgspec.json.decode(body)
    return conversation


def _listed(page: Page) -> Json:
    items: tuple[Item, ...] = page.items
    return {
        "object": "list",
        "data": [msgspec.json.decode(item.body) for item in items],
        "first_id": items[0].id if items else "",
        "last_id": items[-1].id if items else "",
        "has_more": page.more,
    }


def _no_item(id: str) -> NotStored:
    return NotStored(f"Item with id {id[:80]!r} not found.", "item_id")


def _repeated(error: ItemRepeated) -> InvalidParameter:
    return InvalidParameter(
        f"The conversation already has an item with id {error.id[:80]!r}; leave the id out, or "
        "delete the other item first.",
        "items",
    )
