"""``POST /v1/completions``."""

from __future__ import annotations

import secrets
import time

import falcon

from offgrid.api.completions.answer import (
    Choices,
    PromptScores,
    generation_requests,
    stream_answer,
    whole_answer,
)
from offgrid.api.completions.request import (
    parse_completion,
)
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter


class CompletionsResource:
    """Continues texts, whole or streamed."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generations, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, parse_completion)
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        if request.candidates > max(request.n, engine.capacity):
            raise InvalidParameter(
                f"best_of must be at most {engine.capacity} on this server (slots plus queue).",
                "best_of",
            )
        group = GenerationGroup(engine, generation_requests(request), alive)
        resp.set_header("x-offgrid-seed", str(group.seed))
        head = {
            "id": f"cmpl-{secrets.token_hex(14)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": engine.name,
            "system_fingerprint": engine.info.fingerprint,
        }
        choices = Choices(request, group)
        scores = PromptScores(request)
        if request.stream:
            chunks = stream_answer(head, request, group, choices, scores)
            send_stream(req, resp, chunks, group, self._ping_interval)
        else:
            resp.media = whole_answer(head, request, group, choices, scores)
