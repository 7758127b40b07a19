"""``/v1/responses``: responses that are stored and can be continued."""

from __future__ import annotations

import time
from typing import get_args

import falcon
import msgspec

from offgrid.api.chat.prompt import count_tokens, start_chat, warn_of_base
from offgrid.api.chat.request import ChatRequest
from offgrid.api.http.request import in_turn, liveness, read_checked, read_object
from offgrid.api.http.sse import send_stream
from offgrid.api.responses.history import History
from offgrid.api.responses.items import new_id
from offgrid.api.responses.request import (
    Includable,
    PlainText,
    ResponsesRequest,
    parse_responses,
    renamed,
    to_chat,
)
from offgrid.api.responses.truncation import fitting
from offgrid.api.responses.writer import ResponseWriter
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, NotStored, RequestError
from offgrid.store.responses import ResponseStore, StoredResponse

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
"""Maximum number of input items in one page."""


class ResponsesResource:
    """Answers, whole or streamed, and stores the responses."""

    def __init__(self, pool: EnginePool, settings: Settings, store: ResponseStore) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._history = History(store, self._max_body)
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generation, and answer whole or as a stream."""
        request, given = read_checked(req, self._max_body, parse_responses)
        inputs = self._history.resolve(given)
        items = self._history.conversation(request, inputs)
        with in_turn():
            chat = to_chat(request, items, len(inputs))
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        warn_of_base(engine)
        try:
            if request.truncation == "auto":
                chat = fitting(engine, chat, alive)
            prompt, group = start_chat(engine, chat, alive)
        except RequestError as ex:
            raise renamed(ex) from ex
        resp.set_header("x-offgrid-seed", str(group.seed))
        writer = ResponseWriter(
            _head(request, chat, engine.name, store=self._history.keeps(request)),
            prompt,
            group,
            logprobs=request.logprobs,
            obfuscate=request.obfuscate,
            keep=self._history.keeper(request, inputs),
        )
        if request.stream:
            send_stream(req, resp, writer.stream(), group, self._ping_interval, named=True)
            return
        try:
            resp.media = writer.complete()
        except RequestError as ex:
            raise renamed(ex) from ex


class ResponseTokensResource:
    """``POST /v1/responses/input_tokens``: counts the tokens of a request's prompt."""

    def __init__(self, pool: EnginePool, settings: Settings, store: ResponseStore) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._history = History(store, self._max_body)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count the tokens; the body may omit the model, as in the count for chat."""
        body = read_object(req, self._max_body)
        with in_turn():
            request, given = parse_responses(body)
        inputs = self._history.resolve(given)
        items = self._history.conversation(request, inputs)
        with in_turn():
            chat = to_chat(request, items, len(inputs))
        alive = liveness(req)
        engine = self._pool.engine(request.model, alive)
        try:
            if request.truncation == "auto":
                chat = fitting(engine, chat, alive)
            count = count_tokens(engine, chat, "input", alive)
        except RequestError as ex:
            raise renamed(ex) from ex
        resp.media = {"object": "response.input_tokens", "input_tokens": count}


class ResponseResource:
    """A stored response."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the response as the client got it; 404 if it is not stored."""
        _check_include(req)
        for name in ("stream", "starting_after"):
            if req.get_param(name) not in (None, "false"):
                raise InvalidParameter(
                    f"{name} is not supported: only background responses can be streamed again, "
                    "and this server has none.",
                    name,
                    code="unsupported_parameter",
                )
        stored = _find(self._store, id)
        output = [msgspec.json.decode(item.body) for item in stored.outputs]
        resp.media = {**msgspec.json.decode(stored.body), "output": output}

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Remove the response; returns 404 if it is not stored."""
        if not self._store.delete(id):
            raise _not_found(id)
        resp.media = {"id": id, "object": "response", "deleted": True}


class InputItemsResource:
    """The input items of a stored response, without those of the responses before it."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """List the items, in pages."""
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


def _head(request: ResponsesRequest, chat: ChatRequest, model: str, *, store: bool) -> Json:
    """Return the initial response object. Options without effect here have their actual values."""
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
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": request.reasoning.effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": chat.sampling.params.temperature,
        "text": {"format": msgspec.to_builtins(request.text.format or PlainText())},
        "tool_choice": choice if isinstance(choice, str) else msgspec.to_builtins(choice),
        "tools": [
            {**msgspec.to_builtins(tool), "strict": bool(tool.strict)} for tool in request.tools
        ],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": chat.sampling.params.top_p,
        "truncation": request.truncation,
        "usage": None,
        "user": request.user,
    }


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
                raise InvalidParameter(f"Unknown value in include: {value[:80]!r}.", "include")


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    # Python refuses to convert thousands of digits.
    limit = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"limit must be 1 to {MAX_LIMIT}.", "limit")
    return limit
