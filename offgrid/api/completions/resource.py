"""``POST /v1/completions``."""

from __future__ import annotations

import falcon

from offgrid.api.completions.call import CompletionCall
from offgrid.api.completions.request import parse_completion
from offgrid.api.engines import engine_for
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class CompletionsResource:
    """Continues texts, whole or streamed."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generations, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, parse_completion)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        call = CompletionCall(engine, request, alive)
        resp.set_header("x-offgrid-seed", str(call.group.seed))
        if request.stream:
            send_stream(req, resp, call.chunks(), call.group, self._ping_interval)
        else:
            resp.media = call.whole()
