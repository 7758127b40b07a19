"""``POST /v1/chat/completions``, and the count of a request's tokens."""

from __future__ import annotations

import secrets
import time

import falcon

from offgrid.api.chat.answer import stream_answer, whole_answer
from offgrid.api.chat.prompt import count_tokens, start_chat, warn_of_base
from offgrid.api.chat.request import parse_chat
from offgrid.api.http.request import in_turn, liveness, read_checked, read_object
from offgrid.api.http.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class ChatResource:
    """Answers conversations, whole or streamed."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generation, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, parse_chat)
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        warn_of_base(engine)
        prompt, group = start_chat(engine, request, alive)
        resp.set_header("x-offgrid-seed", str(group.seed))
        head = {
            "id": f"chatcmpl-{secrets.token_hex(14)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": engine.name,
            "service_tier": "default",
            "system_fingerprint": engine.info.fingerprint,
        }
        if request.stream:
            head["object"] = "chat.completion.chunk"
            chunks = stream_answer(head, prompt, group)
            send_stream(req, resp, chunks, group, self._ping_interval)
        else:
            resp.media = whole_answer(head, prompt, group)


class InputTokensResource:
    """``POST /v1/chat/completions/input_tokens``: counts the tokens of a chat request's prompt."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count the tokens; the body is that of a chat request, and may omit the model."""
        body = read_object(req, self._max_body)
        with in_turn():
            request = parse_chat(body)
        alive = liveness(req)
        engine = self._pool.engine(request.model, alive)
        count = count_tokens(engine, request, "messages", alive)
        resp.media = {"object": "response.input_tokens", "input_tokens": count}
