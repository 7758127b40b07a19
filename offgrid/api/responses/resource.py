"""``/v1/responses``: responses that are stored and can be continued."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import get_args

import falcon
import msgspec

from offgrid.api.chat.prompt import count_tokens, start_chat, warn_of_base
from offgrid.api.engines import engine_for
from offgrid.api.fields import notices
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.caller import caller
from offgrid.api.http.framing import NAMED
from offgrid.api.http.owner import owner
from offgrid.api.http.request import in_turn, liveness, read_checked, read_object
from offgrid.api.http.scopes import HISTORY, INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.api.ownership import check_history, check_model, own, owner_of
from offgrid.api.responses import background as background_responses
from offgrid.api.responses.background import Background, BackgroundResponse
from offgrid.api.responses.history import History, Inputs
from offgrid.api.responses.hosted import UNSEEN
from offgrid.api.responses.items import Given, new_id
from offgrid.api.responses.request import (
    ChatForm,
    Includable,
    ResponsesRequest,
    parse_responses,
    to_chat,
)
from offgrid.api.responses.truncation import fitting
from offgrid.api.responses.writer import ResponseWriter
from offgrid.api.screening import check_prompt, fields_of
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, NotStored, RequestError
from offgrid.store.responses import ResponseStore, StoredResponse

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
"""Maximum number of items in one page."""


class ResponsesResource:
    """Answers, whole, streamed or in the background, and stores the responses."""

    scopes = INFERENCE

    def __init__(
        self, pool: EnginePool, settings: Settings, store: ResponseStore, background: Background
    ) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._store = store
        self._history = History(store, self._max_body)
        self._background = background
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generation, and answer as the request asks."""
        request, given = read_checked(req, self._max_body, _parse_screened)
        inputs = self._history.resolve(given)
        items = self._history.conversation(request, inputs.items)
        with in_turn():
            form = to_chat(request, items, inputs.places)
        _name_ignored(request, form, items, inputs)
        check_model(self._pool, request.model)
        # The id, also if the request uses another name of the model.
        request = msgspec.structs.replace(request, model=self._pool.id_of(request.model))
        if request.background:
            self._answer_in_background(req, resp, request, form, inputs.items)
            return
        writer, group = self._start(
            req,
            resp,
            request,
            form,
            _head(request, form, store=self._history.keeps(request)),
            self._history.keeper(request, inputs.items),
            liveness(req),
        )
        if request.stream:
            send_stream(req, resp, writer.stream(), group, self._ping_interval, framing=NAMED)
            return
        try:
            resp.media = writer.complete()
        except RequestError as ex:
            raise form.renamed(ex) from ex

    def _start(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        request: ResponsesRequest,
        form: ChatForm,
        head: Json,
        keep: Callable[[Json], bool],
        alive: Callable[[], bool],
    ) -> tuple[ResponseWriter, GenerationGroup]:
        """Start the generation of a response.

        Raises:
            RequestError: the model does not accept the request; nothing is left running.
        """
        engine = engine_for(self._pool, req, request, alive, generates=True)
        warn_of_base(engine)
        params = form.chat.sampling.with_defaults(engine.defaults.sampling)
        head |= {"temperature": params.temperature, "top_p": params.top_p}
        try:
            chat = form.chat
            if request.truncation == "auto":
                chat = fitting(engine, chat, alive)
            prompt, group = start_chat(engine, chat, alive)
        except RequestError as ex:
            raise form.renamed(ex) from ex
        resp.set_header("x-offgrid-seed", str(group.seed))
        writer = ResponseWriter(
            head,
            form,
            prompt,
            group,
            logprobs=request.logprobs,
            obfuscate=request.obfuscate,
            seal=request.sealed,
            keep=keep,
        )
        return writer, group

    def _answer_in_background(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        request: ResponsesRequest,
        form: ChatForm,
        inputs: list[Json],
    ) -> None:
        """Start a response that goes on when its client has left."""
        check_history()
        if not self._store.enabled:
            raise InvalidParameter(
                "background needs stored responses, and this server stores none "
                "(OFFGRID_MAX_RESPONSES).",
                "background",
            )
        head = _head(request, form, store=True)
        whose = owner()
        response = BackgroundResponse(head["id"], liveness(req), owner_of(caller()).id, whose)
        store = self._history.keeper(request, inputs, begun=True)

        def keep(ended: Json) -> bool:
            return not response.discarded and store(ended)

        self._background.count(whose)
        try:
            writer, group = self._start(req, resp, request, form, head, keep, response.alive)
            first = {**head, "output": []}
            try:
                self._history.begin(request, inputs, head, self._background.owner)
                self._background.start(response, writer, group)
            except BaseException:
                group.cancel()
                raise
        except BaseException:
            self._background.uncount(whose)
            raise
        if request.stream:
            _follow(req, resp, response, -1, self._ping_interval)
        else:
            resp.media = first


def _parse_screened(body: Json) -> tuple[ResponsesRequest, list[Given]]:
    """Check a body and its texts; the chat request that is made of it is checked too, with the
    stored items, but errors about that cannot name the item."""
    parsed = parse_responses(body)
    check_prompt(fields_of(body, "instructions", "input"))
    return parsed


class ResponseTokensResource:
    """``POST /v1/responses/input_tokens``: counts the tokens of a request's prompt."""

    scopes = INFERENCE

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
        items = self._history.conversation(request, inputs.items)
        with in_turn():
            form = to_chat(request, items, inputs.places)
        _name_ignored(request, form, items, inputs)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request)
        try:
            chat = form.chat
            if request.truncation == "auto":
                chat = fitting(engine, chat, alive)
            count = count_tokens(engine, chat, "input", alive)
        except RequestError as ex:
            raise form.renamed(ex) from ex
        resp.media = {"object": "response.input_tokens", "input_tokens": count}


class ResponseResource:
    """A stored response, or one that is answered in the background."""

    scopes = HISTORY

    def __init__(self, settings: Settings, store: ResponseStore, background: Background) -> None:
        self._store = store
        self._background = background
        self._ping_interval = settings.sse_ping_interval

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the response in its current state, or its events; 404 if it is not stored."""
        check_include(req)
        streamed = _flag(req, "stream")
        _flag(req, "include_obfuscation")
        after = req.get_param("starting_after")
        if after is not None and not streamed:
            raise InvalidParameter("starting_after needs stream: true.", "starting_after")
        number = background_responses.start_after(after)
        running = self._background.find(id, owner_of(caller()))
        if streamed:
            if running is None:
                _find(own(self._store), self._background, id)
                raise InvalidParameter(
                    "The events of this response are not kept: only those of responses in the "
                    "background are, for a while. Retrieve it without stream.",
                    "stream",
                    code="unsupported_parameter",
                )
            _follow(req, resp, running, number, self._ping_interval)
        elif running is not None:
            resp.media = running.snapshot()
        else:
            resp.media = _whole(_find(own(self._store), self._background, id))

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Remove the response; returns 404 if it is not stored."""
        running = self._background.find(id, owner_of(caller()))
        if running is not None:
            self._background.discard(id)
            running.wait_end(liveness(req))
        if not own(self._store).delete(id) and running is None:
            raise _not_found(id)
        resp.media = {"id": id, "object": "response", "deleted": True}


class CancelResource:
    """``POST /v1/responses/{id}/cancel``: ends a response in the background."""

    scopes = HISTORY

    def __init__(self, store: ResponseStore, background: Background) -> None:
        self._store = store
        self._background = background

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """End the response and return it; one that has ended stays as it is."""
        running = self._background.find(id, owner_of(caller()))
        if running is not None:
            running.wanted = False
            running.wait_end(liveness(req))
            resp.media = running.snapshot()
            return
        response = _whole(_find(own(self._store), self._background, id))
        if not response["background"]:
            raise InvalidParameter(
                "Only responses that were created with background: true can be cancelled. To end "
                "another one, close its connection.",
                "response_id",
            )
        if response["status"] in ("queued", "in_progress"):
            raise InvalidParameter(
                "Another server process answers this response; cancel it there.", "response_id"
            )
        resp.media = response


class CompactResource:
    """``POST /v1/responses/compact``: not supported."""

    scopes = INFERENCE

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse the request, and name an alternative."""
        raise NotStored(
            "This server does not compact conversations. Send a shorter history, or set "
            'truncation to "auto".'
        )


class InputItemsResource:
    """The input items of a stored response, without those of the responses before it."""

    scopes = HISTORY

    def __init__(self, store: ResponseStore, background: Background) -> None:
        self._store = store
        self._background = background

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """List the items, in pages."""
        check_include(req)
        limit, latest_first = read_page(req)
        items = list(_find(own(self._store), self._background, id).inputs)
        if latest_first:
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


def _head(request: ResponsesRequest, form: ChatForm, *, store: bool) -> Json:
    """Return the initial response object. Options without effect here have their actual values."""
    conversation = request.conversation_id
    params = form.chat.sampling.params
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if request.background else "in_progress",
        "background": request.background,
        "completed_at": None,
        **({} if conversation is None else {"conversation": {"id": conversation}}),
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
        "reasoning": {"effort": form.effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": form.chat.tier,
        "store": store,
        "temperature": params.temperature,
        "text": {"format": msgspec.to_builtins(form.format)},
        "tool_choice": form.tool_choice,
        "tools": form.tools.shown,
        "top_logprobs": request.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": request.truncation,
        "usage": None,
        "user": request.user,
    }


def _name_ignored(
    request: ResponsesRequest,
    form: ChatForm,
    items: Iterable[Json],
    inputs: Inputs,
) -> None:
    """Name the parts of a request that the model does not see, in a header and in the log."""
    unseen = {item["type"] for item in items} & UNSEEN
    names = list(dict.fromkeys([
        *form.tools.ignored,
        *(f"input.{kind}" for kind in sorted(unseen)),
        *(f"input.{kind}" for kind in inputs.left_out if kind.isidentifier() and kind.isascii()),
        *(["context_management"] if request.context_management else []),
    ]))  # fmt: skip
    if names:
        for name in names:
            notices.ignore(name)
        log.info("left out of a response: %s", notices.header(tuple(names)))


def _follow(
    req: falcon.Request,
    resp: falcon.Response,
    response: BackgroundResponse,
    after: int,
    ping_interval: float,
) -> None:
    """Make a response of the events of a background response."""
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = response.follow(after, ping_interval, liveness(req))


def _find(store: ResponseStore, background: Background, id: str) -> StoredResponse:
    stored = background_responses.read(store, background, id)
    if stored is None:
        raise _not_found(id)
    return stored


def _whole(stored: StoredResponse) -> Json:
    """Return a stored response with its output."""
    output = [msgspec.json.decode(item.body) for item in stored.outputs]
    return {**msgspec.json.decode(stored.body), "output": output}


def _not_found(id: str) -> NotStored:
    return NotStored(f"Response with id {id[:80]!r} not found.", "response_id")


def _flag(req: falcon.Request, name: str) -> bool:
    """Return a boolean query parameter."""
    value = req.get_param(name, default="false")
    if value not in ("true", "false"):
        raise InvalidParameter(f"{name} must be true or false.", name)
    return value == "true"


def check_include(req: falcon.Request) -> None:
    """Check the query parameter ``include``, which has no effect on what is stored."""
    known = get_args(Includable)
    for name in ("include", "include[]"):
        for value in req.get_param_as_list(name) or ():
            if value not in known:
                raise InvalidParameter(f"Unknown value in include: {value[:80]!r}.", "include")


def read_page(req: falcon.Request) -> tuple[int, bool]:
    """Return the largest number of items to list, and whether the latest come first."""
    limit = _limit(req.get_param("limit"))
    order = req.get_param("order", default="desc")
    if order not in ("asc", "desc"):
        raise InvalidParameter("order must be asc or desc.", "order")
    return limit, order == "desc"


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    # Python refuses to convert thousands of digits.
    limit = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"limit must be 1 to {MAX_LIMIT}.", "limit")
    return limit
