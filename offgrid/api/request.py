"""What the two POST resources do first: read the body, know whether the client is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon

from offgrid.api.errors import BodyTooLarge
from offgrid.api.schema.body import parse_object


def read_object(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the request's JSON object, whatever its Content-Type says (curl -d sets a form's).

    Args:
        req: the request.
        limit: largest body in bytes.

    Raises:
        BodyTooLarge: more than that.
        InvalidParameter: see :func:`~offgrid.api.schema.body.parse_object`.
    """
    if (req.content_length or 0) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
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
