"""The first steps of every resource with a body: read it, learn whether the client has left."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import falcon

from offgrid.api.fields.body import parse_object
from offgrid.api.http.memory import was_large
from offgrid.api.http.refusals import BodyTooLarge
from offgrid.api.http.request_log import show_body
from offgrid.api.http.waitress import environ
from offgrid.errors import InvalidParameter
from offgrid.record import Record

T = TypeVar("T")

LARGE = 1 << 14
"""Size in bytes from which a body counts as large: it may hold hundreds of messages, and takes many
times as long to process as other bodies."""
_LEAVES_MEMORY = 1 << 16
"""Size in bytes of a body from which its memory is returned to the system afterwards."""
AT_ONCE = 2
"""Large bodies that are processed at a time. With more, their threads take turns at Python's lock,
and a thread with little to do waits for all of them. All bodies would also be in memory at once."""
_turns = threading.BoundedSemaphore(AT_ONCE)


class _Served(threading.local):
    """The request that a thread serves."""

    large = False


_served = _Served()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Do lengthy work on the body of the request that this thread serves.

    Large bodies wait here for each other, and for nothing else. Code inside must not wait for a
    client or a model.
    """
    if not _served.large:
        yield
        return
    with _turns:
        yield


def read_object(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the request's JSON object. Ignores Content-Type, since curl -d sets that of a form.

    Args:
        req: the request.
        limit: largest body in bytes.

    Raises:
        BodyTooLarge: the body is larger.
        InvalidParameter: see :func:`~offgrid.api.fields.body.parse_object`.
    """
    return read_checked(req, limit, lambda body: body)


def read_checked(
    req: falcon.Request,
    limit: int,
    parse: Callable[[dict[str, Any]], T],
    *,
    optional: bool = False,
) -> T:
    """Parse the request's JSON object and return the result, for bodies that take long to check.

    Args:
        req: the request.
        limit: largest body in bytes.
        parse: checks the object and returns it typed.
        optional: whether the request may have no body, which means an object without fields.

    Raises:
        BodyTooLarge: the body is larger.
        InvalidParameter: from :func:`~offgrid.api.fields.body.parse_object` or ``parse``.
    """

    def parse_json(raw: bytes) -> T:
        return parse({} if optional and not raw else parse_object(raw))

    return _parsed(req, limit, parse_json)


def read_text(req: falcon.Request, limit: int, parse: Callable[[str], T]) -> T:
    """Parse the request's text and return the result; as :func:`read_checked`, for other bodies
    than JSON.

    Raises:
        BodyTooLarge: the body is larger than ``limit`` bytes.
        InvalidParameter: it is not UTF-8, or from ``parse``.
    """

    def parse_bytes(raw: bytes) -> T:
        try:
            text = raw.decode()
        except UnicodeDecodeError as ex:
            raise InvalidParameter(
                f"The request body is not UTF-8 (byte {ex.start}); save the text as UTF-8."
            ) from None
        return parse(text)

    return _parsed(req, limit, parse_bytes)


def _parsed(req: falcon.Request, limit: int, parse: Callable[[bytes], T]) -> T:
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


def read_raw(req: falcon.Request, limit: int) -> bytes:
    """Read the request's body before its resource does, which then gets the same bytes.

    Raises:
        BodyTooLarge: it is larger than ``limit`` bytes.
    """
    if (req.content_length or 0) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    raw = _read(req, limit)
    req.context.raw = raw
    return raw


def _read(req: falcon.Request, limit: int) -> bytes:
    kept: bytes | None = getattr(req.context, "raw", None)
    if kept is not None:
        req.context.raw = None
        return kept
    raw = req.bounded_stream.read(limit + 1)
    if len(raw) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    record: Record | None = getattr(req.context, "record", None)
    if record is not None and record.shows_body:
        show_body(record, raw)
    return raw


def liveness(req: falcon.Request) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected, as far as is known."""
    return environ.liveness(req.env)
