"""Every exception that OffGrid raises on purpose.

::

    OffgridError                      an error that OffGrid can explain
    ├── ConfigError                   a setting does not parse or is out of range; names it
    ├── SamplingError                 a row from which no token can be sampled
    ├── RpcError                      a machine that lends memory cannot be used
    ├── TransferError                 a model file cannot be imported, exported or fetched
    ├── IncompleteAnswer              an answer has no value of the type that a program wants
    └── RequestError                  ends one request; carries the API's error response
        ├── InvalidParameter          400, also a ValueError; ``param`` names the field
        │   ├── ContentRefused        400, code ``content_filter``
        │   └── ContextLengthExceeded 400, code ``context_length_exceeded``
        ├── ModelNotFound             404, code ``model_not_found``
        ├── ModelNotLoaded            409, a GET that would have to unload another model
        ├── ModelNotChanged           409, the settings or another model need it as it is
        ├── MessageConflict           409, a finished message of the history would change
        ├── LastAdminKey              409, no key with the scope ``admin`` would be left
        ├── TransferRunning           409, another import or export is in progress
        ├── PathNotAllowed            403, a path that is not below an import root
        ├── NotStored                 404, no stored response has that id
        ├── HistoryOff                404, the server stores no history
        ├── PeersOff                  403, the server works alone
        ├── NotOffered                501, another API has the endpoint, and this server does not
        ├── RequestRefused            400, the same prompt crashed the worker twice
        ├── ModelLoadFailed           500, the GGUF is truncated, not a model, too large, ...
        ├── EngineFault               500, a bad row, a failed decode call, a dead worker
        ├── RequestTimeout            504, the request took longer than ``request_timeout``
        ├── PeersUnreachable          503 with Retry-After: no peer with the model can be reached
        ├── PeerLost                  502, the peer that answered the request is gone
        ├── ModelOnPeer               409, only the peer can change the model
        ├── NotForwarded              400, it cannot be sent to the peer with the model
        ├── RateLimited               429 with Retry-After: the caller has used up one of its limits
        ├── StoreFailed               500, a file in which the server stores cannot be used
        │   ├── StoreBusy             503 with Retry-After, another process has locked it
        │   └── HistoryFull           507, the history has reached its limit
        └── Overloaded                503 with Retry-After: queue full, loading, stopping

:mod:`offgrid.api.http.error_handlers` maps these exceptions to ``{"error": {...}}``. ``type`` and
``code`` are strings of the OpenAI error object; all of them are listed here
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

ErrorType = Literal[
    "api_error", "authentication_error", "invalid_request_error", "permission_error",
    "rate_limit_error", "requests", "server_error", "tokens", "unavailable_error",
]  # fmt: skip
"""Every ``type`` of an error that the API returns."""
ErrorCode = Literal[
    "content_filter", "context_length_exceeded", "cross_site", "engine_fault", "export_running",
    "grammar_dead_end", "grammar_too_complex", "headers_too_large", "history_full", "history_off",
    "host_not_allowed", "import_running", "invalid_api_key", "invalid_forwarding", "invalid_host",
    "invalid_json", "invalid_length", "invalid_value", "keys_unavailable", "last_admin_key",
    "message_conflict", "method_not_allowed", "missing_required_parameter", "missing_scope",
    "model_load_failed", "model_loading", "model_not_allowed", "model_not_found",
    "model_not_loaded", "model_on_peer", "not_forwarded", "not_found", "not_offered", "not_paired",
    "not_removable", "origin_not_allowed", "pairing_closed", "pairing_failed", "pairing_locked",
    "path_not_allowed", "peer_lost", "peer_unreachable", "peers_disabled",
    "previous_response_not_found", "rate_limit_exceeded", "remote_not_allowed", "request_refused",
    "request_timeout", "request_too_large", "server_busy", "server_shutting_down",
    "set_by_settings", "store_busy", "store_failed", "too_many_attempts", "too_many_values",
    "ui_off", "unknown_parameter", "unknown_url", "unsupported_model", "unsupported_parameter",
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


class RpcError(OffgridError):
    """A machine that lends memory cannot be used, or is not there any more."""


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
        may_succeed: whether the same request may succeed later. Clients retry some statuses by
            themselves.
    """

    status = 500
    type: ErrorType = "server_error"
    code: ErrorCode | None = None
    may_succeed = True

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


class ContentRefused(InvalidParameter):
    """A prompt contains what the content filter forbids. The message names the field, not what."""

    code = "content_filter"

    def __init__(self, message: str = "", param: str | None = None, **more: Any) -> None:
        """``message`` is given when the error comes from a worker; else it is made here."""
        super().__init__(
            message
            or f"{param or 'prompt'} contains text that the content filter of this server "
            "does not allow; change the text.",
            param,
            **more,
        )


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
        self._model, self._advice = model, advice
        super().__init__(f"Model not found: {model}{advice and f'. {advice}'}", "model")

    def with_advice(self, more: str) -> ModelNotFound:
        """Return the same error with a further sentence, which may be empty."""
        return ModelNotFound(self._model, f"{self._advice} {more}".strip())


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


class ModelNotChanged(RequestError):
    """A model cannot be changed as a request wants; the message says why and what to do.

    Its code is ``set_by_settings`` or ``not_removable``.
    """

    status = 409
    type = "invalid_request_error"


class TransferRunning(RequestError):
    """An import or export is in progress, and the server runs one of each at a time."""

    status = 409
    type = "invalid_request_error"

    def __init__(self, kind: Literal["import", "export"], id: str) -> None:
        super().__init__(
            f"The {kind} {id} is in progress. Follow it with GET /v1/{kind}/{id}, or end it with "
            f"POST /v1/{kind}/{id}/cancel.",
            code="import_running" if kind == "import" else "export_running",
        )


class LastAdminKey(RequestError):
    """No valid key with the scope ``admin`` would be left, and the request does not confirm it."""

    status = 409
    type = "invalid_request_error"
    code = "last_admin_key"

    def __init__(
        self,
        message: str = (
            "This is the last valid key with the scope admin. Without it, keys can only be changed "
            "with 'offgrid keys' on the machine of the server. Create another key with this scope "
            "first, or confirm with ?confirm=true."
        ),
        param: str | None = None,
    ) -> None:
        super().__init__(message, param)
        self.may_succeed = False


class PathNotAllowed(RequestError):
    """A path to import or export is not below an import root; whether it exists is not said."""

    status = 403
    type = "permission_error"
    code = "path_not_allowed"

    def __init__(self, path: str, roots: str, param: str) -> None:
        """``roots`` names the import roots."""
        super().__init__(
            f"{path[:200]!r} is not below an import root (OFFGRID_IMPORT_ROOTS), or a link in it "
            f"leads elsewhere. The import roots are: {roots}.",
            param,
        )


class NotStored(RequestError):
    """No response with that id is stored, or no longer; likewise transfers, keys, conversations."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class HistoryOff(RequestError):
    """The server stores no history, so there is none to read."""

    status = 404
    type = "invalid_request_error"
    code = "history_off"
    may_succeed = False

    def __init__(self) -> None:
        super().__init__(
            "This server stores no history; to change that, start it with OFFGRID_HISTORY=true."
        )


class PeersOff(RequestError):
    """The setting ``peers`` is off, so the server has no peers."""

    status = 403
    type = "permission_error"
    code = "peers_disabled"
    may_succeed = False

    def __init__(self) -> None:
        super().__init__(
            "Peers are off on this server. Run pip install 'offgrid-llm[peers]', and start the "
            "server with OFFGRID_PEERS=true (--peers)."
        )


class MessageConflict(RequestError):
    """A message of the history is finished, and the request has another message with its id."""

    status = 409
    type = "invalid_request_error"
    code = "message_conflict"
    may_succeed = False

    def __init__(self, id: str, reason: str, param: str) -> None:
        super().__init__(
            f"{param}: the conversation has another message with the id {id}, {reason}; give the "
            "new one another id.",
            param,
        )


class NotOffered(RequestError):
    """Another API has this endpoint, and this server does not do what it is for."""

    status = 501
    type = "invalid_request_error"
    code = "not_offered"
    may_succeed = False


class RequestRefused(RequestError):
    """The same prompt crashed the worker twice, each time before its first token was generated."""

    status = 400
    type = "invalid_request_error"
    code = "request_refused"


class ModelLoadFailed(RequestError):
    """llama.cpp cannot load this file."""

    code = "model_load_failed"
    may_succeed = False


class RequestTimeout(RequestError):
    """The request took longer than the setting ``request_timeout`` allows."""

    status = 504
    code = "request_timeout"
    may_succeed = False


class RateLimited(RequestError):
    """The caller has used up its requests or tokens per minute, or has too many requests at once.

    ``type`` says which, in OpenAI's words: ``requests`` or ``tokens``.
    """

    status = 429
    type: ErrorType = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, type: ErrorType, wait: float | None) -> None:
        """``wait``: seconds after which a retry makes sense; None if it never does."""
        super().__init__(message, retry_after=None if wait is None else max(1, math.ceil(wait)))
        self.type = type
        self.wait = wait
        self.may_succeed = wait is not None


class PeersUnreachable(RequestError):
    """No peer with the model can be reached; nothing was computed."""

    status = 503
    type = "unavailable_error"
    code = "peer_unreachable"

    def __init__(self, model: str, reasons: Sequence[str]) -> None:
        """``reasons``: a sentence for each peer with the model."""
        super().__init__(
            f"The model {model} is on another machine only. {' '.join(reasons)} Start OffGrid "
            "there and check the network (offgrid peers list), or copy the model to this machine "
            "(offgrid import --from PEER MODEL).",
            retry_after=5,
        )


class PeerLost(RequestError):
    """The peer that answered the request has ended, or does not answer any more."""

    status = 502
    code = "peer_lost"

    def __init__(self, peer: str, reason: str) -> None:
        """``reason``: what happened, as a part of a sentence."""
        super().__init__(
            f"The connection to the peer {peer} was lost while it answered: {reason.rstrip('.')}. "
            "Send the request again."
        )


class ModelOnPeer(RequestError):
    """A model of a peer cannot be changed from here."""

    status = 409
    type = "invalid_request_error"
    code = "model_on_peer"
    may_succeed = False

    def __init__(self, model: str, peer: str) -> None:
        super().__init__(
            f"The model {model} is on the peer {peer} only, and requests to this machine cannot "
            "change it or ask for its state. Do that there.",
            "model",
        )


class NotForwarded(RequestError):
    """A request for a model of a peer that this machine cannot or may not forward."""

    status = 400
    type = "invalid_request_error"
    code = "not_forwarded"
    may_succeed = False


class EngineFault(RequestError):
    """The worker could not finish the request: bad logits, a failed decode call, a dead process."""

    code = "engine_fault"


class StoreFailed(RequestError):
    """What is stored cannot be read or written: a full disk, a file that may not be opened."""

    code: ErrorCode | None = "store_failed"


class StoreBusy(StoreFailed):
    """Another process has locked the file of stored responses, or that of the history."""

    status = 503
    type = "unavailable_error"
    code = "store_busy"

    def __init__(
        self,
        message: str = "Another process has locked the file of stored responses; try again later.",
    ) -> None:
        super().__init__(message, retry_after=1)


class HistoryFull(StoreFailed):
    """The history of a caller has reached its limit; nothing was stored, and nothing deleted."""

    status = 507
    code = "history_full"
    may_succeed = False

    def __init__(self, size: int, limit: int) -> None:
        """``size``: bytes that the history would have; ``limit``: most bytes that it may have."""
        super().__init__(
            f"The history would have {size >> 20} MiB, and may have {limit >> 20} "
            "(OFFGRID_MAX_HISTORY_MB). Nothing was stored; export conversations and delete them, "
            "or raise the limit."
        )


class Overloaded(RequestError):
    """The server cannot accept this request now; ``retry_after`` says when to try again."""

    status = 503
    type = "unavailable_error"
    code: ErrorCode | None = "server_busy"

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, retry_after: int = 1
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
