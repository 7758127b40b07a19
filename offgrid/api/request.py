"""What every POST resource does first: read the body, know whether the client is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import falcon

from offgrid.api.errors import BodyTooLarge
from offgrid.api.memory import LARGE, was_large
from offgrid.api.schema.body import parse_object

T = TypeVar("T")

MAX_PARSED = 2
"""Large bodies that are read and parsed at a time, so that not all are in memory at once. That
takes a tenth of a second each, whatever the client does: the server has the whole body before the
request begins."""
_large_bodies = threading.BoundedSemaphore(MAX_PARSED)


def read_object(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the request's JSON object, whatever its Content-Type says (curl -d sets a form's).

    Args:
        req: the request.
        limit: largest body in bytes.

    Raises:
        BodyTooLarge: more than that.
        InvalidParameter: see :func:`~offgrid.api.schema.body.parse_object`.
    """
    return read_checked(req, limit, lambda body: body)


def read_checked(req: falcon.Request, limit: int, parse: Callable[[dict[str, Any]], T]) -> T:
    """Return what is made of the request's JSON object, for bodies that take long to check.

    Args:
        req: the request.
        limit: largest body in bytes.
        parse: checks the object and returns it typed.

    Raises:
        BodyTooLarge: more than that.
        InvalidParameter: see :func:`~offgrid.api.schema.body.parse_object`, or what ``parse`` says.
    """
    if (req.content_length or 0) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    if (req.content_length or 0) < LARGE:
        return parse(_read(req, limit))
    try:
        with _large_bodies:
            return parse(_read(req, limit))
    finally:
        was_large()


def _read(req: falcon.Request, limit: int) -> dict[str, Any]:
    raw = req.bounded_stream.read(limit + 1)
    if len(raw) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    return parse_object(raw)


def liveness(req: falcon.Request) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected.

    waitress knows when it reads ahead (``channel_request_lookahead`` of at least 1); other servers
    give no such function, and then the next write finds out.
    """
    disconnected = req.env.get("waitress.client_disconnected")
    if disconnected is None:
        return lambda: True
    return lambda: not disconnected()
