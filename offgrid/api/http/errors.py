"""The one mapper from exceptions to ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
import re
from typing import Any

import falcon
import msgspec

from offgrid.engine.client.client import ClientGone
from offgrid.errors import ErrorCode, ErrorType, ModelLoadFailed, RequestError

log = logging.getLogger(__name__)

_HTTP_CODES: dict[int, ErrorCode] = {
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    431: "headers_too_large",
    503: "server_busy",
}
MAX_FIELD = 80
"""Characters of the path of a field in a message: a client may send any name."""
_OTHER_APIS = {"/api/": "Ollama", "/messages/": "Anthropic"}
"""A part of the paths of another API -> its name."""
_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


class HostRefused(RequestError):
    """403: the Host or Origin header is not allowed."""

    status = 403
    type = "permission_error"
    code = "host_not_allowed"


class BodyTooLarge(RequestError):
    """413: the request body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


def error_body(
    message: str, type: ErrorType, param: str | None = None, code: ErrorCode | None = None
) -> dict[str, Any]:
    """Return the OpenAI error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def request_error_body(error: RequestError) -> dict[str, Any]:
    """Return the OpenAI error object of an exception."""
    return error_body(told(error), error.type, error.param, error.code)


def told(error: RequestError) -> str:
    """Return the message of an exception; that of a 400 names the field at fault.

    Many clients show nothing but the message.
    """
    field = error.param
    if error.status != 400 or not field or _names(error.message, field):
        return error.message
    if error.code == "context_length_exceeded":  # clients know the beginning of these messages
        return f"{error.message} Shorten {field}."
    return f"{field[:MAX_FIELD]}{'...' if len(field) > MAX_FIELD else ''}: {error.message}"


def _names(message: str, field: str) -> bool:
    """Whether a message contains the path of a field, or the beginning of a long path."""
    if len(field) > MAX_FIELD:
        return field[:MAX_FIELD] in message
    return re.search(rf"(?<![\w.]){re.escape(field)}(?!\w)", message) is not None


def http_error_body(status: int, message: str) -> dict[str, Any]:
    """Return the OpenAI error object of an error that has only an HTTP status."""
    type: ErrorType = "server_error" if status >= 500 else "invalid_request_error"
    if status == 503:
        type = "unavailable_error"
    return error_body(message, type, code=_HTTP_CODES.get(status))


def add_error_handlers(app: falcon.App[Any, Any]) -> None:
    """Make an app answer every error with the OpenAI error object."""
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(RequestError, _on_request_error)
    app.add_error_handler(ClientGone, _on_client_gone)


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
        # Clients retry a 5xx by themselves, but a retry cannot succeed here.
        resp.set_header("x-should-retry", "false")
    _send(resp, ex.status, request_error_body(ex))


def _on_http_error(
    req: falcon.Request, resp: falcon.Response, ex: falcon.HTTPError, params: dict[str, Any]
) -> None:
    status = ex.status_code
    if req.method not in falcon.constants.COMBINED_METHODS:
        # Falcon returns 400 for an unknown method.
        status = 405
        resp.set_header("Allow", _METHODS)
    message = {
        404: f"Unknown URL: {req.path}. {_advice(req)}",
        405: f"{req.method} is not allowed for {req.path}.",
    }.get(status, ex.description or ex.title or "The request cannot be served.")
    if ex.headers is not None:
        resp.set_headers(ex.headers)
    _send(resp, status, http_error_body(status, message))


def _advice(req: falcon.Request) -> str:
    """Return what to do about an unknown path. Most are the fault of a client's base URL, or of
    a client that speaks another API."""
    path = f"{req.path}/"
    if path.startswith("/v1/") and not path.startswith(("/v1/v1/", "/v1/api/", "/v1/messages/")):
        return "GET /openapi.json lists all endpoints."
    other = next((api for part, api in _OTHER_APIS.items() if part in path), "")
    lacking = f"This server has no {other} API. " if other else ""
    return f"{lacking}The base URL of the OpenAI API is {req.prefix}/v1."


def _on_client_gone(
    req: falcon.Request, resp: falcon.Response, ex: ClientGone, params: dict[str, Any]
) -> None:
    # The client never sees this; access logs use 499 for it.
    resp.status = "499 Client Closed Request"


def _on_unexpected(
    req: falcon.Request, resp: falcon.Response, ex: Exception, params: dict[str, Any]
) -> None:
    log.error("%s %s failed", req.method, req.path, exc_info=ex)
    _send(resp, 500, error_body("Internal server error.", "server_error"))
