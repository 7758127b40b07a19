"""``POST /v1/lab/distribution``."""

from __future__ import annotations

import falcon
import msgspec

from offgrid.api.engines import engine_for
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.lab.call import LabCall
from offgrid.api.lab.request import parse_lab
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class LabResource:
    """Shows what each step of sampling does to the distribution of the next token."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, compute the row, and answer with all steps."""
        request = read_checked(req, self._max_body, parse_lab)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        call = LabCall(engine, request, alive)
        resp.set_header("x-offgrid-seed", str(call.group.seed))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(call.whole())
