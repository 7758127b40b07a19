"""``POST /completion``, ``/completions`` and ``/infill``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
import msgspec

from offgrid.api.engines import engine_for
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.api.llama_server.call import NativeCall
from offgrid.api.llama_server.framing import EVENTS
from offgrid.api.llama_server.request import (
    InfillRequest,
    NativeRequest,
    parse_infill,
    parse_native,
)
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class _Answers:
    """Generates text, whole or streamed, in llama-server's form."""

    scopes = INFERENCE
    parse: Callable[[dict[str, Any]], NativeRequest | InfillRequest]

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generations, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, type(self).parse)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        call = NativeCall(engine, request, alive)
        resp.set_header("x-offgrid-seed", str(call.group.seed))
        if request.stream:
            wanted = request.sse_ping_interval
            interval = self._ping_interval if wanted is None else max(0, wanted)
            send_stream(req, resp, call.chunks(), call.group, interval, framing=EVENTS)
        else:
            resp.content_type = falcon.MEDIA_JSON
            resp.data = msgspec.json.encode(call.whole())


class CompletionResource(_Answers):
    """Continues texts."""

    parse = staticmethod(parse_native)


class InfillResource(_Answers):
    """Fills in the text between two others."""

    parse = staticmethod(parse_infill)
