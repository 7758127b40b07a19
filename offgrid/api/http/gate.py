"""The gate: which requests may occupy a thread of the server.

The number of threads is limited, and most requests wait for a model: for their answer, for its
tokeniser, or until it is loaded. Each of them takes one of a limited number of places, fewer than
there are threads, until its last byte is on its way. Callers share the places. Requests that never
wait take no place, so that ``/health`` finds a thread whatever the models do.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import falcon

from offgrid.api.http import owner
from offgrid.api.http.once import Once
from offgrid.api.http.streamed import Leaving
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.shares import Shares
from offgrid.errors import Overloaded

_NEVER_WAIT = {
    "/", "/favicon.ico", "/health", "/metrics", "/openapi.json", "/ready", "/slots", "/ui",
    "/peer/alive", "/peer/models", "/peer/pair", "/peer/pair/confirm", "/peer/status",
    "/v1/keys", "/v1/loaded", "/v1/models", "/v1/peers",
    "/v1/stats", "/v1/stats/series", "/v1/stats/slots",
    *(f"/api/{name}" for name in (
        "copy", "create", "delete", "ps", "pull", "push", "show", "tags", "version",
    )),
}  # fmt: skip
_NEVER_WAITS_BELOW = "/v1/models/"
_WAITS = ("POST", "/v1/peers/pair")
"""It waits for another machine."""
# A change of a key waits for the disk at most; and it is made most of all while others take all
# places, because it is how their key is revoked.
_NEVER_WAIT_BELOW = ("/api/blobs/", "/peer/models/", "/ui/", "/v1/keys/", "/v1/peers/")


def places(settings: Settings) -> int:
    """Return how many requests may wait for a model at the same time."""
    return _shares(settings).most


def _shares(settings: Settings) -> Shares:
    return Shares(settings.usual_requests, settings.more_requests)


def never_waits(method: str, path: str) -> bool:
    """Return whether a request is answered without a model."""
    # POST below that path loads and unloads models.
    reads = path.startswith(_NEVER_WAITS_BELOW) and method != "POST"
    if method == "OPTIONS" or path in _NEVER_WAIT or reads:
        return True
    return path.startswith(_NEVER_WAIT_BELOW) and (method, path) != _WAITS


class Gate:
    """Gives a place to each request that may wait, and refuses the request if no place is free.

    A request keeps its model loaded (:meth:`EnginePool.begin_visit`) until it ends or, if it
    streams, until it holds its places in the model's queue.
    """

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._shares = _shares(settings)
        self._lock = threading.Lock()
        self._left: deque[str] = deque()
        """Owners of requests that have left. A deque: the garbage collector may call
        Leaving.dropped at any line, also while the lock is held, and append is atomic."""

    @property
    def total(self) -> int:
        """All places."""
        return self._shares.most

    @property
    def taken(self) -> int:
        """Places that are taken. Takes no lock: what reads it must not wait."""
        return max(0, self._shares.taken - len(self._left))

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Take a place, or raise Overloaded. Requests that are refused before need none."""
        if never_waits(req.method, req.path):
            return
        whose = owner.begin(req)
        with self._lock:
            for _ in range(len(self._left)):
                self._shares.give_back(self._left.popleft())
            has_place = self._shares.take(whose)
            missing = self._shares.missing(whose, 1)
        if not has_place:
            raise Overloaded(
                "The server has reached its maximum number of requests; try again later.",
                retry_after=self._pool.retry_after(missing),
            )
        req.context.leave = Once(lambda: self._left.append(whose))
        self._pool.begin_visit()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Give the place back, now or at the end of the stream."""
        leave: Once | None = getattr(req.context, "leave", None)
        if leave is None:
            return
        self._pool.end_visit()
        if resp.stream is None:
            leave()
        else:
            resp.stream = Leaving(resp.stream, leave)
