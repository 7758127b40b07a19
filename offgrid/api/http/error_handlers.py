"""The one mapper from exceptions to answers; :mod:`error_bodies` has their bodies."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import falcon
import msgspec

from offgrid.api.fields import notices
from offgrid.api.http.advice import advice_for
from offgrid.api.http.error_bodies import Problem, error_shape
from offgrid.api.http.refusals import Forbidden, NotAuthenticated
from offgrid.engine.client.client import ClientGone
from offgrid.errors import ErrorCode, ErrorType, RateLimited, RequestError
from offgrid.record import Record

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
_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


def request_problem(error: RequestError) -> Problem:
    """Return what an exception says is wrong."""
    return Problem(error.status, told(error), error.type, error.param, error.code)


def refusal_headers(error: RequestError) -> dict[str, str]:
    """Return the headers with which an exception is answered."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, (NotAuthenticated, Forbidden)):
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, RateLimited) and error.wait is not None:
        # The openai client prefers this header, which is more precise.
        headers["retry-after-ms"] = str(max(1, math.ceil(error.wait * 1000)))
    if not error.may_succeed:
        # Clients retry these statuses by themselves.
        headers["x-should-retry"] = "false"
    return headers


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


def http_problem(status: int, message: str) -> Problem:
    """Return what is wrong, for an error that has only an HTTP status."""
    type: ErrorType = "server_error" if status >= 500 else "invalid_request_error"
    if status == 503:
        type = "unavailable_error"
    return Problem(status, message, type, code=_HTTP_CODES.get(status))


def add_error_handlers(app: falcon.App[Any, Any]) -> None:
    """Make an app answer every error with the error object of the API that the client speaks."""
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(RequestError, _on_request_error)
    app.add_error_handler(ClientGone, _on_client_gone)


def _send(req: falcon.Request, resp: falcon.Response, problem: Problem) -> None:
    resp.status = problem.status
    resp.content_type = falcon.MEDIA_JSON
    record: Record | None = getattr(req.context, "record", None)
    if record is not None:
        problem = problem._replace(request_id=record.id)
    shape = error_shape(req.path, req.env.get("HTTP_ANTHROPIC_VERSION"))
    resp.data = msgspec.json.encode(shape(problem))


def _on_request_error(
    req: falcon.Request, resp: falcon.Response, ex: RequestError, params: dict[str, Any]
) -> None:
    resp.set_headers(refusal_headers(ex))
    problem = request_problem(ex)
    param = problem.param and notices.in_request(problem.param)
    message = notices.in_request(problem.message)
    _send(req, resp, problem._replace(message=message, param=param))
    _note(req, ex.status, ex.code)


def _on_http_error(
    req: falcon.Request, resp: falcon.Response, ex: falcon.HTTPError, params: dict[str, Any]
) -> None:
    status = ex.status_code
    if req.method not in falcon.constants.COMBINED_METHODS:
        # Falcon returns 400 for an unknown method.
        status = 405
        resp.set_header("Allow", _METHODS)
    message = {
        404: f"Unknown URL: {req.path}. {advice_for(req.path, req.prefix)}",
        405: f"{req.method} is not allowed for {req.path}.",
    }.get(status, ex.description or ex.title or "The request cannot be served.")
    if ex.headers is not None:
        resp.set_headers(ex.headers)
    _send(req, resp, http_problem(status, message))
    _note(req, status, _HTTP_CODES.get(status))


def _note(req: falcon.Request, status: int, code: str | None) -> None:
    """Tell the record of a request why it failed."""
    record: Record | None = getattr(req.context, "record", None)
    if record is not None:
        record.failed(status, code)


def _on_client_gone(
    req: falcon.Request, resp: falcon.Response, ex: ClientGone, params: dict[str, Any]
) -> None:
    # The client never sees this; access logs use 499 for it.
    resp.status = "499 Client Closed Request"
    _note(req, 499, "client_gone")


def _on_unexpected(
    req: falcon.Request, resp: falcon.Response, ex: Exception, params: dict[str, Any]
) -> None:
    log.error("%s %s failed", req.method, req.path, exc_info=ex)
    _send(req, resp, Problem(500, "Internal server error.", "server_error"))
    _note(req, 500, "internal_error")
