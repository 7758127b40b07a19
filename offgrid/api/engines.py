"""The model that a request asks for, and how long the request waits for it and keeps it loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import falcon

from offgrid.api.fields import notices
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.keep_alive import seconds_of
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness
from offgrid.api.ownership import check_model
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import Use
from offgrid.errors import InvalidParameter

WAIT = "x-offgrid-wait"
"""Header: most seconds that a request waits until its model is loaded."""
MOST_WAIT = 86400.0


class Asking(Protocol):
    """A request that names a model."""

    @property
    def model(self) -> str | None: ...
    @property
    def keep_alive(self) -> float | str | None: ...


def wait_of(req: falcon.Request) -> float | None:
    """Return the value of the header :data:`WAIT`; None if it is absent.

    Raises:
        InvalidParameter: it is no number of seconds.
    """
    text = req.get_header(WAIT)
    if text is None:
        return None
    try:
        seconds = float(text[:32])
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MOST_WAIT:
        raise InvalidParameter(
            f"The header {WAIT} must be a number of seconds from 0 to {MOST_WAIT:g}.", WAIT
        )
    return seconds


def engine_for(
    pool: EnginePool,
    req: falcon.Request,
    request: Asking,
    alive: Callable[[], bool] | None = None,
    *,
    generates: bool = False,
) -> EngineClient:
    """Return the engine client of the model that a request names; see :meth:`EnginePool.engine`.

    A model that the caller may not use is refused.

    Args:
        pool: provides the engine clients.
        req: the HTTP request.
        request: its body.
        alive: whether the client is still connected; by default, as far as the connection tells.
        generates: whether the model must generate text.
    """
    check_model(pool, request.model or "")
    use = Use(keep_alive=seconds_of(request.keep_alive), wait=wait_of(req), owner=owner())
    find = pool.generator if generates else pool.engine
    engine = find(request.model or "", bounds().within(alive or liveness(req)), use)
    if use.keep_alive is not None and engine.pinned:
        notices.ignore("keep_alive")
    return engine
