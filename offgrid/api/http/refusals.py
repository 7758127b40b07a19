"""Exceptions for requests that the HTTP layer refuses, before an endpoint sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offgrid.caller import Caller, Scope
from offgrid.errors import RequestError


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


class NotAuthenticated(RequestError):
    """401: the request has no key, or one that is not valid.

    Attributes:
        wrong: whether the request has a key.
    """

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str, *, wrong: bool = True) -> None:
        super().__init__(message)
        self.wrong = wrong
        self.challenge = 'Bearer realm="offgrid"' + (', error="invalid_token"' if wrong else "")


class Forbidden(RequestError):
    """403: the key does not have one of the scopes that the request needs."""

    status = 403
    type = "permission_error"
    code = "missing_scope"

    def __init__(self, key: str, scopes: Sequence[Scope], present: Iterable[Scope] = ()) -> None:
        """``key`` is its name, ``present`` are its scopes: the advice is to add one to them."""
        options = " ".join(f"--scope {scope}" for scope in [*sorted(present), scopes[0]])
        super().__init__(
            f"The key {key} lacks the scope {' or '.join(scopes)}. This creates a key that has it: "
            f"offgrid keys create NAME {options}"
        )
        wanted = " ".join(scopes)
        self.challenge = f'Bearer realm="offgrid", error="insufficient_scope", scope="{wanted}"'


class ModelForbidden(RequestError):
    """403: the key is not for this model."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"

    def __init__(self, who: Caller, model: str, allowed: Iterable[str]) -> None:
        """``model`` is what the request calls it; ``allowed`` are the models of the caller."""
        named = f"model {model[:80]}" if model else "default model"
        refused = f"The key {who.name} is not for"
        if who.is_machine:
            refused = f"The machine {who.name} may not use"
        super().__init__(
            f"{refused} the {named}. Its models are: {', '.join(sorted(allowed))}.",
            "model",
        )


class TooManyAttempts(RequestError):
    """429: too many wrong keys came from this address."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_attempts"


class KeysNotKnown(RequestError):
    """503: the keys file cannot be read, so every request that needs a key is refused."""

    status = 503
    type = "unavailable_error"
    code = "keys_unavailable"
