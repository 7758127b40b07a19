"""The stored conversations of ``/v1/responses``: reading and storing them for requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from offgrid.api.responses.items import ItemReference, check_calls
from offgrid.api.responses.request import ResponsesRequest
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, StoreFailed
from offgrid.store.responses import (
    ChainBroken,
    ChainTooLong,
    Item,
    ResponseStore,
    StoredResponse,
)

log = logging.getLogger(__name__)


class History:
    """Reads and writes the store for requests.

    Args:
        store: the store of responses.
        max_bytes: JSON of a conversation that is read for one request; more is refused.
    """

    def __init__(self, store: ResponseStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def conversation(self, request: ResponsesRequest, inputs: list[Json]) -> list[Json]:
        """Return all items of a request's conversation.

        Raises:
            InvalidParameter: the response that it continues is not stored, or a result belongs to
                no call.
        """
        items = [*self._before(request.previous_response_id), *inputs]
        check_calls(items)
        return items

    def resolve(self, given: Sequence[Json | ItemReference]) -> list[Json]:
        """Return the items of an input, with stored items in place of references.

        Raises:
            InvalidParameter: a referenced item is not stored, or the stored items are too large.
        """
        ids = [item.id for item in given if isinstance(item, ItemReference)]
        if not ids:
            return [item for item in given if not isinstance(item, ItemReference)]
        try:
            found = self._store.items(ids, self._max_bytes)
        except ChainTooLong:
            raise InvalidParameter("The referenced items are too large.", "input") from None
        for index, item in enumerate(given):
            if isinstance(item, ItemReference) and item.id not in found:
                raise InvalidParameter(
                    f"Item with id {item.id[:80]!r} not found.", f"input[{index}].id"
                )
        return [
            msgspec.json.decode(found[item.id]) if isinstance(item, ItemReference) else item
            for item in given
        ]

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
        except ChainTooLong:
            raise InvalidParameter(
                f"The conversation is larger than {self._max_bytes} bytes.", "previous_response_id"
            ) from None
        return [msgspec.json.decode(body) for body in bodies]

    def keeps(self, request: ResponsesRequest) -> bool:
        """Return whether a response will be stored, as far as that is known before it exists."""
        return request.store and self._store.takes()

    def keeper(self, request: ResponsesRequest, inputs: list[Json]) -> Callable[[Json], bool]:
        """Return a function that stores a finished response, if it can."""

        def keep(response: Json) -> bool:
            if not (request.store and self._store.enabled):
                return False
            body = {key: value for key, value in response.items() if key != "output"}
            body["store"] = True
            try:
                self._store.put(
                    StoredResponse(
                        response["id"],
                        request.previous_response_id,
                        msgspec.json.encode(body),
                        tuple(map(_stored, inputs)),
                        tuple(map(_stored, response["output"])),
                    )
                )
            except StoreFailed as ex:
                # Do not fail a finished answer: its ``store`` field says that it was not stored.
                log.warning("response %s is not stored: %s", response["id"], ex)
                return False
            return True

        return keep


def _stored(item: Json) -> Item:
    return Item(item["id"], msgspec.json.encode(item))
