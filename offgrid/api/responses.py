"""``/v1/responses``: answers that are kept and can be continued."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import falcon
import msgspec

from offgrid.api.chat import start_chat
from offgrid.api.request import liveness, read_object
from offgrid.api.response_answer import ResponseWriter
from offgrid.api.schema.chat import ChatRequest
from offgrid.api.schema.response_items import ItemReference, check_calls, new_id
from offgrid.api.schema.responses import (
    Includable,
    PlainText,
    ResponsesRequest,
    parse_responses,
    renamed,
    to_chat,
)
from offgrid.api.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.pool import EnginePool
from offgrid.errors import InvalidParameter, NotStored, RequestError, StoreFailed
from offgrid.store.responses import (
    ChainBroken,
    ChainTooLong,
    Item,
    ResponseStore,
    StoredResponse,
)

log = logging.getLogger(__name__)

Json = dict[str, Any]

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
"""Input items in one page."""


class ResponsesResource:
    """Answers, whole or streamed, and keeps what was answered."""

    def __init__(self, pool: EnginePool, settings: Settings, store: ResponseStore) -> None:
        self._pool = pool
        self._store = store
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, start, and answer whole or as a stream."""
        request, given = parse_responses(read_object(req, self._max_body))
        inputs = self._resolve(given)
        items = [*self._conversation(request.previous_response_id), *inputs]
        check_calls(items)
        chat = to_chat(request, items)
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        try:
            talk, running = start_chat(engine, chat, alive)
        except RequestError as ex:
            raise renamed(ex) from ex
        resp.set_header("x-offgrid-seed", str(running.seed))
        writer = ResponseWriter(
            _head(request, chat),
            talk,
            running,
            logprobs=request.logprobs,
            obfuscate=request.obfuscate,
            keep=self._keeper(request, inputs),
        )
        if request.stream:
            send_stream(req, resp, writer.stream(), running, self._ping_interval, named=True)
            return
        try:
            resp.media = writer.whole()
        except RequestError as ex:
            raise renamed(ex) from ex

    def _resolve(self, given: Sequence[Json | ItemReference]) -> list[Json]:
        """Put the stored items in the place of references."""
        ids = [item.id for item in given if isinstance(item, ItemReference)]
        if not ids:
            return [item for item in given if not isinstance(item, ItemReference)]
        try:
            found = self._store.items(ids, self._max_body)
        except ChainTooLong:
            raise InvalidParameter("The items referred to are too large.", "input") from None
        for index, item in enumerate(given):
            if isinstance(item, ItemReference) and item.id not in found:
                raise InvalidParameter(
                    f"Item with id {item.id[:80]!r} not found.", f"input[{index}].id"
                )
        return [
            msgspec.json.decode(found[item.id]) if isinstance(item, ItemReference) else item
            for item in given
        ]

    def _conversation(self, previous: str | None) -> list[Json]:
        """Return the items that led to a response, its output last."""
        if previous is None:
            return []
        try:
            bodies = self._store.conversation(previous, self._max_body)
        except ChainBroken as ex:
            reason = "not found"
            if ex.missing != previous:
                reason = "continues a response that is not stored any more"
            elif not self._store.enabled:
                reason = "not found: this server keeps no responses (OFFGRID_MAX_RESPONSES)"
            raise InvalidParameter(
                f"Previous response with id {previous[:80]!r} {reason}.",
                "previous_response_id",
                code="previous_response_not_found",
            ) from None
        except ChainTooLong:
            raise InvalidParameter(
                f"The conversation is larger than {self._max_body} bytes.", "previous_response_id"
            ) from None
        return [msgspec.json.decode(body) for body in bodies]

    def _keeper(self, request: ResponsesRequest, inputs: list[Json]) -> Callable[[Json], bool]:
        """Return a function that stores a finished response, if it can."""

        def keep(response: Json) -> bool:
            if not self._store.enabled:
                return False
            body = {key: value for key, value in response.items() if key != "output"}
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
                # The answer is there, and says itself that it was not kept.
                log.warning("response %s is not stored: %s", response["id"], ex)
                return False
            return True

        return keep


class ResponseResource:
    """A stored response."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the response as it was answered; 404 when it is not stored."""
        _check_include(req)
        for name in ("stream", "starting_after"):
            if req.get_param(name) not in (None, "false"):
                raise InvalidParameter(
                    f"{name}: only background responses can be streamed again, and this server "
                    "has none.",
                    name,
                    code="unsupported_parameter",
                )
        stored = _find(self._store, id)
        output = [msgspec.json.decode(item.body) for item in stored.outputs]
        resp.media = {**msgspec.json.decode(stored.body), "output": output}

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Remove the response; 404 when it is not stored."""
        if not self._store.delete(id):
            raise _not_found(id)
        resp.media = {"id": id, "object": "response", "deleted": True}


class InputItemsResource:
    """The items that a stored response answered: those of its own request."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """List them, in pages."""
        _check_include(req)
        limit = _limit(req.get_param("limit"))
        order = req.get_param("order", default="desc")
        if order not in ("asc", "desc"):
            raise InvalidParameter("order must be asc or desc.", "order")
        items = list(_find(self._store, id).inputs)
        if order == "desc":
            items.reverse()
        after = req.get_param("after")
        if after is not None:
            start = next((n for n, item in enumerate(items, 1) if item.id == after), None)
            if start is None:
                raise InvalidParameter(f"No input item has the id {after[:80]!r}.", "after")
            items = items[start:]
        page = items[:limit]
        resp.media = {
            "object": "list",
            "data": [msgspec.json.decode(item.body) for item in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(page) < len(items),
        }

    on_head = on_get


class CancelResource:
    """Ends a response that runs in the background: here there is none that does."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Refuse; 404 when the response is not stored."""
        _find(self._store, id)
        raise InvalidParameter(
            "Only background responses can be cancelled. To end a stream, close its connection.",
            code="invalid_request",
        )


def _head(request: ResponsesRequest, chat: ChatRequest) -> Json:
    """The response object as it begins. What has no effect here says so."""
    choice = request.tool_choice
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store,
        "temperature": chat.temperature,
        "text": {"format": msgspec.to_builtins(request.text.format or PlainText())},
        "tool_choice": choice if isinstance(choice, str) else msgspec.to_builtins(choice),
        "tools": [
            {**msgspec.to_builtins(tool), "strict": bool(tool.strict)} for tool in request.tools
        ],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": chat.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }


def _stored(item: Json) -> Item:
    return Item(item["id"], msgspec.json.encode(item))


def _find(store: ResponseStore, id: str) -> StoredResponse:
    stored = store.get(id)
    if stored is None:
        raise _not_found(id)
    return stored


def _not_found(id: str) -> NotStored:
    return NotStored(f"Response with id {id[:80]!r} not found.", "response_id")


def _check_include(req: falcon.Request) -> None:
    known = get_args(Includable)
    for name in ("include", "include[]"):
        for value in req.get_param_as_list(name) or ():
            if value not in known:
                raise InvalidParameter(f"include: {value[:80]!r} is not known.", "include")


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise InvalidParameter(f"limit must be 1 to {MAX_LIMIT}.", "limit")
    return int(text)
