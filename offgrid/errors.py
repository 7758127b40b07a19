"""Every exception that OffGrid raises on purpose.

::

    OffgridError                      an error that OffGrid can explain
    ├── ConfigError                   a setting does not parse or is out of range; names it
    ├── SamplingError                 a row from which no token can be sampled
    ├── TransferError                 a model file cannot be imported, exported or fetched
    ├── IncompleteAnswer              an answer has no value of the type that a program wants
    └── RequestError                  ends one request; carries the API's error response
        ├── InvalidParameter          400, also a ValueError; ``param`` names the field
        │   └── ContextLengthExceeded 400, code ``context_length_exceeded``
        ├── ModelNotFound             404, code ``model_not_found``
        ├── ModelNotLoaded            409, a GET that would have to unload another model
        ├── ImportRunning             409, another import is in progress
        ├── PathNotAllowed            403, a path to import that is not below an import root
        ├── NotStored                 404, no stored response has that id
        ├── RequestRefused            400, the same prompt crashed the worker twice
        ├── ModelLoadFailed           500, the GGUF is truncated, not a model, too large, ...
        ├── EngineFault               500, a bad row, a failed decode call, a dead worker
        ├── StoreFailed               500, the file of stored responses cannot be used
        │   └── StoreBusy             503 with Retry-After, another process has locked it
        └── Overloaded                503 with Retry-After: queue full, loading, stopping

:mod:`offgrid.api.http.errors` maps these exceptions to ``{"error": {...}}``. ``type`` and ``code``
are strings of the OpenAI error object; all of them are listed here
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from typing import Literal

ErrorType = Literal[
    "api_error", "invalid_request_error", "permission_error", "server_error", "unavailable_error",
]  # fmt: skip
"""Every ``type`` of an error that the API returns."""
ErrorCode = Literal[
    "context_length_exceeded", "cross_site", "engine_fault", "grammar_dead_end",
    "grammar_too_complex", "headers_too_large", "host_not_allowed", "import_running",
    "invalid_host", "invalid_json",
    "invalid_length", "invalid_value", "method_not_allowed", "missing_required_parameter",
    "model_load_failed", "model_loading", "model_not_found", "model_not_loaded", "not_found",
    "origin_not_allowed", "path_not_allowed", "previous_response_not_found",
    "request_refused", "request_timeout",
    "request_too_large", "server_busy", "server_shutting_down", "store_busy", "store_failed",
    "too_many_values", "unknown_parameter", "unknown_url", "unsupported_model",
    "unsupported_parameter",
]  # fmt: skip
"""Every ``code`` of an error that the API returns; ``docs/API.md`` explains each."""


class OffgridError(Exception):
    """Base of all errors that OffGrid raises on purpose."""


class ConfigError(OffgridError):
    """A setting that does not parse or is out of its range; the message names it."""


class SamplingError(OffgridError):
    """No token can be sampled from a row.

    ``code`` gives the reason, in one of the words documented in ``csrc/og_sampler.h``
    (for example ``"nan_logits"`` or ``"no_candidate"``).
    """

    def __init__(self, message: str, code: str = "sampling_failed") -> None:
        super().__init__(message)
        self.code = code


class TransferError(OffgridError):
    """A model file cannot be imported, exported or fetched; the message says why and what to do.

    ``code`` gives the reason in one word: ``busy``, ``changed``, ``different``, ``disk_full``,
    ``invalid``, ``not_found``, ``pip``, ``source``, ``terms``, ``too_large``, ``unusable``,
    ``unwritable`` or ``wrong_hash``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class IncompleteAnswer(OffgridError):
    """An answer has no value of the wanted type: it ended too early, or calls functions instead."""


class RequestError(OffgridError):
    """Ends one request. The attributes make up the API's error response.

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
    """The prompt, or prompt plus requested answer, exceeds the context; nothing was computed."""

    code = "context_length_exceeded"


class ModelNotFound(RequestError):
    """No model has that id. Its type is ``api_error``, as OffGrid's API document specifies."""

    status = 404
    type = "api_error"
    code = "model_not_found"

    def __init__(self, model: str, advice: str = "") -> None:
        """``advice`` is a sentence, such as one with the ids that exist."""
        advice = advice and f". {advice}"
        super().__init__(f"Model not found: {model}{advice}", "model")


class ModelNotLoaded(RequestError):
    """A model is not loaded, and this request may not unload another one to make room."""

    status = 409
    type = "invalid_request_error"
    code = "model_not_loaded"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model {model} is not loaded, and a GET request never unloads another model to "
            "make room. Send a POST request to this model first, for example POST /tokenize.",
            "model",
        )


class ImportRunning(RequestError):
    """An import is in progress, and the server runs one at a time."""

    status = 409
    type = "invalid_request_error"
    code = "import_running"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"The import {id} is in progress. Follow it with GET /v1/import/{id}, or end it with "
            f"POST /v1/import/{id}/cancel."
        )


class PathNotAllowed(RequestError):
    """A path to import is not below an import root; whether it exists is not said."""

    status = 403
    type = "permission_error"
    code = "path_not_allowed"

    def __init__(self, path: str, roots: str) -> None:
        """``roots`` names the import roots."""
        super().__init__(
            f"{path[:200]!r} is not below an import root (OFFGRID_IMPORT_ROOTS), or a link in it "
            f"leads elsewhere. The import roots are: {roots}.",
            "paths",
        )


class NotStored(RequestError):
    """No response with that id is stored, or it is stored no longer; likewise an import."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class RequestRefused(RequestError):
    """The same prompt crashed the worker twice, each time before its first token was generated."""

    status = 400
    type = "invalid_request_error"
    code = "request_refused"


class ModelLoadFailed(RequestError):
    """llama.cpp cannot load this file."""

    code = "model_load_failed"


class EngineFault(RequestError):
    """The worker could not finish the request: bad logits, a failed decode call, a dead process."""

    code = "engine_fault"


class StoreFailed(RequestError):
    """Stored responses cannot be read or written: a full disk, a file that may not be opened."""

    code: ErrorCode | None = "store_failed"


class StoreBusy(StoreFailed):
    """Another process has locked the file of stored responses."""

    status = 503
    type = "unavailable_error"
    code = "store_busy"

    def __init__(self) -> None:
        message = "Another process has locked the file of stored responses; try again later."
        super().__init__(message, retry_after=1)


class Overloaded(RequestError):
    """The server cannot accept this request now; ``retry_after`` says when to try again."""

    status = 503
    type = "unavailable_error"
    code: ErrorCode | None = "server_busy"

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, retry_after: int = 1
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
