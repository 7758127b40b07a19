"""The one mapper from exceptions to ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from typing import Any

import falcon
import msgspec

from offgrid.engine.client.client import ClientGone
from offgrid.errors import ModelLoadFailed, RequestError

log = logging.getLogger(__name__)

_HTTP_CODES = {
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    431: "headers_too_large",
    503: "server_busy",
}
_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


class HostRefused(RequestError):
    """403: the Host or Origin header names nobody that this server serves."""

    status = 403
    type = "permission_error"
    code = "host_not_allowed"


class BodyTooLarge(RequestError):
    """413: the request body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


def error_body(error: RequestError) -> dict[str, Any]:
    """Return the OpenAI error object of an error."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def add_error_handlers(app: falcon.App[Any, Any]) -> None:
    """Teach an app to answer every error in the one form."""
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(RequestError, _on_request_error)
    app.add_error_handler(ClientGone, _on_client_gone)


def wire_error(status: int, message: str) -> bytes:
    """Return the body for a request that never reached the application."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": message,
        "type": "unavailable_error" if status == 503 else kind,
        "param": None,
        "code": _HTTP_CODES.get(status),
    }
    return msgspec.json.encode({"error": error})


def _send(resp: falcon.Response, status: int, body: dict[str, Any]) -> None:
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)


def _on_request_error(
    req: falcon.Request, resp: falcon.Response, ex: RequestError, params: dict[str, Any]
) -> None:
    if ex.retry_after is not None:
        resp.set_header("Retry-After", str(ex.retry_after))
    if isinstance(ex, ModelLoadFailed):
        # Clients try a 5xx again by themselves; this one stays as it is.
        resp.set_header("x-should-retry", "false")
    _send(resp, ex.status, error_body(ex))


def _on_http_error(
    req: falcon.Request, resp: falcon.Response, ex: falcon.HTTPError, params: dict[str, Any]
) -> None:
    status = ex.status_code
    if req.method not in falcon.constants.COMBINED_METHODS:
        # Falcon calls a method that nobody has heard of a bad request.
        status = 405
        resp.set_header("Allow", _METHODS)
    message = {
        404: f"Unknown URL: {req.path}.",
        405: f"{req.method} is not allowed for {req.path}.",
    }.get(status, ex.description or ex.title or "The request cannot be served.")
    if ex.headers is not None:
        resp.set_headers(ex.headers)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": _HTTP_CODES.get(status)}
    _send(resp, status, {"error": error})


def _on_client_gone(
    req: falcon.Request, resp: falcon.Response, ex: ClientGone, params: dict[str, Any]
) -> None:
    # Nobody reads this; 499 is what access logs know it by.
    resp.status = "499 Client Closed Request"


def _on_unexpected(
    req: falcon.Request, resp: falcon.Response, ex: Exception, params: dict[str, Any]
) -> None:
    log.error("%s %s failed", req.method, req.path, exc_info=ex)
    error = {"message": "Internal server error.", "type": "server_error", "param": None}
    _send(resp, 500, {"error": {**error, "code": None}})
