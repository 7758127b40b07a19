"""The body of an error in the shape of the API that a client speaks. The path says which it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from offgrid.errors import ErrorCode, ErrorType


class Problem(NamedTuple):
    """What is wrong with a request, in no API's shape.

    Attributes:
        status: the HTTP status.
        message: what is wrong, then what to do.
        type: a class of errors, in OpenAI's words.
        param: the field at fault.
        code: the error, for programs.
        request_id: the id of the request, if it is known.
    """

    status: int
    message: str
    type: ErrorType
    param: str | None = None
    code: ErrorCode | None = None
    request_id: str = ""


Shape = Callable[[Problem], dict[str, Any]]
"""Returns the body of the answer."""


def openai_error(problem: Problem) -> dict[str, Any]:
    """Return ``{"error": {"message", "type", "param", "code"}}``."""
    _, message, type, param, code, _ = problem
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
"""HTTP status -> type of the error in Anthropic's API; for others see :func:`anthropic_error`."""


def anthropic_error(problem: Problem) -> dict[str, Any]:
    """Return ``{"type": "error", "error": {"type", "message"}, "request_id"}``."""
    other = "api_error" if problem.status >= 500 else "invalid_request_error"
    kind = ANTHROPIC_TYPES.get(problem.status, other)
    error: dict[str, Any] = {"type": kind, "message": problem.message}
    if problem.param == "thread" and problem.code == "unsupported_parameter":
        # Clients then go on without it.
        error["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return {"type": "error", "error": error, "request_id": problem.request_id or None}


_LLAMA_SERVER_TYPES = {404: "not_found_error", 501: "not_supported_error"}


def llama_server_error(problem: Problem) -> dict[str, Any]:
    """Return ``{"error": {"code", "message", "type", "param"}}``, where the code is the status.

    llama-server has no ``param``.
    """
    status, message, type, param, code, _ = problem
    named = _LLAMA_SERVER_TYPES.get(status, type)
    if code == "context_length_exceeded":
        named = "exceed_context_size_error"
    return {"error": {"code": status, "message": message, "type": named, "param": param}}


def ollama_error(problem: Problem) -> dict[str, Any]:
    """Return ``{"error": message}``."""
    return {"error": problem.message}


_SHAPES: tuple[tuple[str, Shape], ...] = (
    ("/v1/messages", anthropic_error),
    ("/completion", llama_server_error),
    ("/infill", llama_server_error),
    ("/apply-template", llama_server_error),
    ("/props", llama_server_error),
    ("/slots", llama_server_error),
    ("/api/", ollama_error),
)
"""Paths of other APIs, and what errors below them look like."""


def error_shape(path: str, version: str | None = None) -> Shape:
    """Return the shape of the errors of a request.

    Args:
        path: its path.
        version: its header ``anthropic-version``, which every client of Anthropic's API sends; it
            may ask for a path of several APIs, or for one that does not exist.
    """
    if version is not None:
        return anthropic_error
    return next((shape for start, shape in _SHAPES if path.startswith(start)), openai_error)


def speaks_anthropic(path: str, version: str | None) -> bool:
    """Return whether a request is one of Anthropic's API; see :func:`error_shape`."""
    return error_shape(path, version) is anthropic_error
