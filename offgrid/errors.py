"""Every exception that OffGrid raises on purpose.

::

    OffgridError                      something OffGrid can explain
    ├── ConfigError                   a setting does not parse or is out of range; names it
    ├── SamplingError                 a logits row from which no token can be drawn
    └── RequestError                  ends one request; carries what the API answers
        ├── InvalidParameter          400, also a ValueError; ``param`` names the field
        │   └── ContextLengthExceeded 400, code ``context_length_exceeded``
        ├── ModelNotFound             404, code ``model_not_found``
        ├── ModelNotLoaded            409, a GET that another model would be unloaded for
        ├── NotStored                 404, nothing of that id is stored
        ├── RequestRefused            400, the same request ended the worker twice
        ├── ModelLoadFailed           500, the GGUF is cut short, not a model, too large, ...
        ├── EngineFault               500, a bad row, a failing decode, a dying worker
        ├── StoreFailed               500, the file of stored responses cannot be used
        │   └── StoreBusy             503 with Retry-After, another process has locked it
        └── Overloaded                503 with Retry-After: queue full, loading, stopping

The API layer has one mapper from these to ``{"error": {...}}`` (:mod:`offgrid.api.http.errors`).
``type`` and ``code`` are strings of the OpenAI error object, all of them listed here
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from typing import Literal

ErrorType = Literal[
    "api_error", "invalid_request_error", "permission_error", "server_error", "unavailable_error",
]  # fmt: skip
"""The ``type`` of every error that the API answers."""
ErrorCode = Literal[
    "context_length_exceeded", "cross_site", "engine_fault", "grammar_dead_end",
    "grammar_too_complex", "headers_too_large", "host_not_allowed", "invalid_host", "invalid_json",
    "invalid_length", "invalid_value", "method_not_allowed", "missing_required_parameter",
    "model_load_failed", "model_loading", "model_not_found", "model_not_loaded", "not_found",
    "origin_not_allowed", "previous_response_not_found", "request_refused", "request_timeout",
    "request_too_large", "server_busy", "server_shutting_down", "store_busy", "store_failed",
    "too_many_values", "unknown_parameter", "unknown_url", "unsupported_model",
    "unsupported_parameter",
]  # fmt: skip
"""The ``code`` of every error that the API answers; ``docs/API.md`` says what each means."""


class OffgridError(Exception):
    """Base of all errors that OffGrid raises on purpose."""


class ConfigError(OffgridError):
    """A setting that does not parse or is out of its range; the message names it."""


class SamplingError(OffgridError):
    """No token can be drawn from a logits row.

    ``code`` says why, in one of the words documented in ``csrc/og_sampler.h``
    (for example ``"nan_logits"`` or ``"no_candidate"``).
    """

    def __init__(self, message: str, code: str = "sampling_failed") -> None:
        super().__init__(message)
        self.code = code


class RequestError(OffgridError):
    """Ends one request. The class attributes are what the API answers.

    Attributes:
        status: HTTP status code.
        type: the OpenAI error ``type``.
        code: the OpenAI error ``code`` or ``None``.
        param: the request field at fault or ``None``.
        retry_after: seconds after which a retry makes sense, or ``None``.
    """

    status = 500
    type: ErrorType = "server_error"
    code: ErrorCode | None = None

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        code: ErrorCode | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class InvalidParameter(RequestError, ValueError):
    """A field of the request has a wrong type, a wrong value or is missing."""

    status = 400
    type = "invalid_request_error"
    code: ErrorCode | None = "invalid_value"


class ContextLengthExceeded(InvalidParameter):
    """Prompt (plus the requested answer) does not fit the context; nothing was computed."""

    code = "context_length_exceeded"


class ModelNotFound(RequestError):
    """No model of that id. ``type`` is ``api_error`` because OffGrid's API document says so."""

    status = 404
    type = "api_error"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"Model not found: {model}", "model")


class ModelNotLoaded(RequestError):
    """A model has no place in memory, and this request may not unload another one."""

    status = 409
    type = "invalid_request_error"
    code = "model_not_loaded"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model {model} is not loaded, and a GET request never unloads another model to "
            "make room. Send a POST request to this model first, for example POST /tokenize.",
            "model",
        )


class NotStored(RequestError):
    """Nothing of that id is stored, or not any more."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class RequestRefused(RequestError):
    """This very request ended the worker process twice before it gave a token."""

    status = 400
    type = "invalid_request_error"
    code = "request_refused"


class ModelLoadFailed(RequestError):
    """llama.cpp does not load this file."""

    code = "model_load_failed"


class EngineFault(RequestError):
    """The worker could not finish the request: bad logits, a failed decode, a dead process."""

    code = "engine_fault"


class StoreFailed(RequestError):
    """What is stored cannot be read or written: a full disk, a file of somebody else."""

    code: ErrorCode | None = "store_failed"


class StoreBusy(StoreFailed):
    """Another process has locked the file of what is stored."""

    status = 503
    type = "unavailable_error"
    code = "store_busy"

    def __init__(self) -> None:
        message = "Another process has locked the file of stored responses; try again later."
        super().__init__(message, retry_after=1)


class Overloaded(RequestError):
    """The server cannot take this request now; ``retry_after`` says when to ask again."""

    status = 503
    type = "unavailable_error"
    code = "server_busy"

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, retry_after: int = 1
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
