"""The gate: which requests may occupy a thread of the server.

The number of threads is limited, and most requests wait for a model: for their answer, for its
tokeniser, or until it is loaded. Each of them takes one of a limited number of places, fewer than
there are threads, until its last byte is on its way. Requests that never wait take no place, so
that ``/health`` finds a thread whatever the models do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import falcon

from offgrid.api.http.once import Once
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import Overloaded

_EXTRA = 8
"""Places in addition to those of all sequences: for requests that only use the tokeniser while all
queues are full, and for requests that are refused because the queue is full."""
_NEVER_WAIT = {"/", "/health", "/openapi.json", "/v1/models", "/v1/loaded"}
_NEVER_WAITS_BELOW = "/v1/models/"


def places(settings: Settings) -> int:
    """Return how many requests may wait for a model at the same time."""
    return (settings.most_parallel + settings.queue_size) * settings.max_models + _EXTRA


def never_waits(method: str, path: str) -> bool:
    """Return whether a request is answered without a model."""
    # POST below that path loads and unloads models.
    reads = path.startswith(_NEVER_WAITS_BELOW) and method != "POST"
    return method == "OPTIONS" or path in _NEVER_WAIT or reads


class Gate:
    """Gives a place to each request that may wait, and refuses the request if no place is free.

    A request keeps its model loaded (:meth:`EnginePool.begin_visit`) until it ends or, if it
    streams, until it holds its places in the model's queue.
    """

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        # A deque: its pop and append are atomic, even if the garbage collector runs __del__ below
        # during another pop or append.
        self._free = deque(range(places(settings)))

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take a place, or raise Overloaded."""
        if never_waits(req.method, req.path):
            return
        try:
            place = self._free.pop()
        except IndexError:
            raise Overloaded(
                "The server has reached its maximum number of requests; try again later."
            ) from None
        req.context.leave = Once(lambda: self._free.append(place))
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
            resp.stream = _Leaving(resp.stream, leave)


class _Leaving:
    """The body of a streamed response; gives the place back when it ends."""

    def __init__(self, body: Any, leave: Once) -> None:
        self._body = body
        self._frames = iter(body)
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left. Idempotent."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._leave()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self._leave()
