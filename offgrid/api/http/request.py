"""What every resource with a body does first: read it, know whether the client is there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import falcon

from offgrid.api.fields.body import parse_object
from offgrid.api.http.errors import BodyTooLarge
from offgrid.api.http.memory import was_large
from offgrid.api.http.waitress import environ

T = TypeVar("T")

LARGE = 1 << 14
"""Bytes of a body from which on it counts as large: it may hold hundreds of messages, and the work
on it is a multiple of what others need."""
_LEAVES_MEMORY = 1 << 16
"""Bytes of a body from which on what it leaves behind is given back to the system."""
AT_ONCE = 2
"""Large bodies that are worked on at a time. With more, their threads take Python's lock in turns,
and whoever has little to do waits for all of them; and all would be in memory at once."""
_turns = threading.BoundedSemaphore(AT_ONCE)


class _Served(threading.local):
    """The request that a thread serves."""

    large = False


_served = _Served()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Do what takes time with the body of the request that this thread serves.

    Large ones wait for each other here, and for nothing else: nobody waits for a client or a model
    inside.
    """
    if not _served.large:
        yield
        return
    with _turns:
        yield


def read_object(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the request's JSON object, whatever its Content-Type says (curl -d sets a form's).

    Args:
        req: the request.
        limit: largest body in bytes.

    Raises:
        BodyTooLarge: more than that.
        InvalidParameter: see :func:`~offgrid.api.fields.body.parse_object`.
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
        InvalidParameter: see :func:`~offgrid.api.fields.body.parse_object`, or what ``parse`` says.
    """
    size = req.content_length or 0
    _served.large = size >= LARGE
    if size > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    try:
        with in_turn():
            return parse(_read(req, limit))
    finally:
        if size >= _LEAVES_MEMORY:
            was_large()


def _read(req: falcon.Request, limit: int) -> dict[str, Any]:
    raw = req.bounded_stream.read(limit + 1)
    if len(raw) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    return parse_object(raw)


def liveness(req: falcon.Request) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected, where that is known."""
    return environ.liveness(req.env)
