"""``POST /v1/chat/completions``, and the count of a request's tokens."""

from __future__ import annotations

import falcon

from offgrid.api.chat.call import ChatCall
from offgrid.api.chat.prompt import count_tokens, warn_of_base
from offgrid.api.chat.request import parse_chat
from offgrid.api.engines import engine_for
from offgrid.api.http.request import in_turn, liveness, read_checked, read_object
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class ChatResource:
    """Answers conversations, whole or streamed."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generation, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, parse_chat)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        warn_of_base(engine)
        call = ChatCall(engine, request, alive)
        resp.set_header("x-offgrid-seed", str(call.group.seed))
        if request.stream:
            send_stream(req, resp, call.chunks(), call.group, self._ping_interval)
        else:
            resp.media = call.whole()


class InputTokensResource:
    """``POST /v1/chat/completions/input_tokens``: counts the tokens of a chat request's prompt."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count the tokens; the body is that of a chat request, and may omit the model."""
        body = read_object(req, self._max_body)
        with in_turn():
            request = parse_chat(body)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request)
        count = count_tokens(engine, request, "messages", alive)
        resp.media = {"object": "response.input_tokens", "input_tokens": count}
