"""``POST /v1/decisions``."""

from __future__ import annotations

import falcon

from offgrid.api.decisions.call import DecisionsCall
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.engines import engine_for
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class DecisionsResource:
    """Answers questions about an input with probabilities."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, compute all answers, and send them."""
        request, talk = read_checked(req, self._max_body, parse_decisions)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        resp.media = DecisionsCall(engine, request, talk, alive).whole()
