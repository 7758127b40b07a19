"""The stored conversations of ``/v1/responses``: reading and storing them for requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from offgrid.api.ownership import check_history, keeps_history, own
from offgrid.api.responses.items import Given, ItemReference, LeftOut, check_calls
from offgrid.api.responses.request import ResponsesRequest
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, NotStored, StoreFailed
from offgrid.store.file import Item, TooLong
from offgrid.store.responses import (
    ChainBroken,
    ChainUnfinished,
    ResponseStore,
    StoredResponse,
)

log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """The items of a request's input.

    Attributes:
        items: in their stored form; those of unknown types are left out.
        places: the index of each in ``input``.
        left_out: the types that were left out.
    """

    items: list[Json]
    places: list[int]
    left_out: list[str]


class History:
    """Reads and writes the store for requests.

    Args:
        store: the store of responses.
        max_bytes: JSON of a conversation that is read for one request; more is refused.
    """

    def __init__(self, store: ResponseStore, max_bytes: int) -> None:
        self._shared = store
        self._max_bytes = max_bytes

    @property
    def _store(self) -> ResponseStore:
        """The store as the caller of this request sees it."""
        return own(self._shared)

    def conversation(self, request: ResponsesRequest, inputs: list[Json]) -> list[Json]:
        """Return all items of a request's conversation.

        Raises:
            Forbidden: the request continues one, and its caller may not.
            InvalidParameter: the response that it continues is not stored, or a result belongs to
                no call.
            NotStored: the conversation that it belongs to does not exist.
        """
        if request.previous_response_id is not None or request.conversation_id is not None:
            check_history()
        before = self._before(request.previous_response_id)
        items = [*before, *self._of_conversation(request.conversation_id), *inputs]
        check_calls(items)
        return items

    def resolve(self, given: Sequence[Given], name: str = "input") -> Inputs:
        """Return the items of a field, with stored items in place of references.

        Raises:
            InvalidParameter: a referenced item is not stored, or the stored items are too large.
            Forbidden: there are references, and the caller may not read stored items.
        """
        ids = [item.id for item in given if isinstance(item, ItemReference)]
        found: dict[str, bytes] = {}
        if ids:
            check_history()
            try:
                found = self._store.items(ids, self._max_bytes)
            except TooLong:
                raise InvalidParameter("The referenced items are too large.", name) from None
        inputs = Inputs([], [], [])
        for index, item in enumerate(given):
            if isinstance(item, LeftOut):
                inputs.left_out.append(item.type)
                continue
            if isinstance(item, ItemReference):
                if item.id not in found:
                    raise InvalidParameter(
                        f"Item with id {item.id[:80]!r} not found.", f"{name}[{index}].id"
                    )
                item = msgspec.json.decode(found[item.id])
            inputs.items.append(item)
            inputs.places.append(index)
        return inputs

    def _of_conversation(self, id: str | None) -> list[Json]:
        """Return the items of a conversation."""
        if id is None:
            return []
        try:
            bodies = self._store.conversations.items(id, self._max_bytes)
        except TooLong:
            raise InvalidParameter(
                f"The conversation is larger than {self._max_bytes} bytes.", "conversation"
            ) from None
        if bodies is None:
            raise no_conversation(id, "conversation")
        return [msgspec.json.decode(body) for body in bodies]

    def _before(self, previous: str | None) -> list[Json]:
        """Return the items of the conversation up to a response, whose output comes last."""
        if previous is None:
            return []
        try:
            bodies = self._store.conversation(previous, self._max_bytes)
        except ChainBroken as ex:
            reason = "not found"
            if ex.missing != previous:
                reason = "continues a response that is no longer stored"
            elif not self._store.enabled:
                reason = "not found: this server stores no responses (OFFGRID_MAX_RESPONSES)"
            raise InvalidParameter(
                f"Previous response with id {previous[:80]!r} {reason}.",
                "previous_response_id",
                code="previous_response_not_found",
            ) from None
        except ChainUnfinished as ex:
            raise InvalidParameter(
                f"Previous response with id {ex.id[:80]!r} is not finished.",
                "previous_response_id",
            ) from None
        except TooLong:
            raise InvalidParameter(
                f"The conversation is larger than {self._max_bytes} bytes.", "previous_response_id"
            ) from None
        return [msgspec.json.decode(body) for body in bodies]

    def keeps(self, request: ResponsesRequest) -> bool:
        """Return whether a response will be stored, as far as that is known before it exists."""
        return request.store and keeps_history() and self._store.takes()

    def begin(
        self, request: ResponsesRequest, inputs: list[Json], response: Json, owner: str
    ) -> None:
        """Store a response that is answered in the background, before it is finished.

        Raises:
            StoreFailed: it cannot be stored, so that its client could never read it.
        """
        self._store.put(_response(request, inputs, response, owner))

    def keeper(
        self, request: ResponsesRequest, inputs: list[Json], *, begun: bool = False
    ) -> Callable[[Json], bool]:
        """Return a function that stores a finished response, if it can.

        The items of a completed answer are added to its conversation in the same transaction.

        Args:
            request: the request.
            inputs: the items of its input.
            begun: whether :meth:`begin` has stored it.
        """
        conversation = request.conversation_id
        # The function is called on another thread, which serves no request.
        store, keeps = self._store, keeps_history()

        def keep(response: Json) -> bool:
            complete = response["status"] in ("completed", "incomplete")
            extended = conversation if complete else None
            if not keeps or not store.enabled or not (request.store or extended):
                return False
            stored = _response(request, inputs, response)
            try:
                if not request.store:
                    assert extended is not None
                    store.conversations.extend(extended, (*stored.inputs, *stored.outputs))
                elif begun:
                    store.finish(stored, extended)
                else:
                    store.put(stored, extended)
            except StoreFailed as ex:
                # Do not fail a finished answer: its ``store`` field says that it was not stored.
                log.warning("response %s is not stored: %s", response["id"], ex)
                return False
            return request.store

        return keep


def no_conversation(id: str, param: str) -> NotStored:
    """Return the error for an unknown conversation."""
    return NotStored(f"Conversation with id {id[:80]!r} not found.", param)


def _response(
    request: ResponsesRequest, inputs: list[Json], response: Json, owner: str | None = None
) -> StoredResponse:
    body = {key: value for key, value in response.items() if key != "output"}
    body["store"] = True
    return StoredResponse(
        response["id"],
        request.previous_response_id,
        msgspec.json.encode(body),
        tuple(map(as_stored, inputs)),
        tuple(map(as_stored, response["output"])),
        owner,
    )


def as_stored(item: Json) -> Item:
    """Return an item as the store takes it."""
    return Item(item["id"], msgspec.json.encode(item))
