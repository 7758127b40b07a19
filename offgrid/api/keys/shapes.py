"""Bodies and answers of ``/v1/keys``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.shapes import Answer, Count
from offgrid.caller import Scope
from offgrid.store.grants import MOST

MAX_MODELS = 1000
Limit = Annotated[int, Meta(ge=1, le=MOST)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=20)]
Models = Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(
    max_length=MAX_MODELS,
    description="Ids and aliases of the models that the key is for; empty for all models.",
)]  # fmt: skip
Moment = Annotated[str, Meta(max_length=64)]
Expires = Annotated[
    Moment | Annotated[int, Meta(ge=0)],
    Meta(
        description="When the key ends: a time from now such as `30d`, a date such as "
        "`2027-01-31` in the local time of the server, `never`, or seconds since 1970."
    ),
]


class GivenLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a key; those that are absent do not exist."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    max_tokens: Limit | None = None


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be created."""

    name: Name
    scopes: Scopes = msgspec.field(default_factory=lambda: ["history", "inference"])
    models: Models = []
    limits: GivenLimits = GivenLimits()
    expires: Expires = "never"


class KeyUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change about a key; what is absent stays as it is."""

    scopes: Scopes | None = None
    models: Models | None = None
    limits: GivenLimits | None = None
    """Replaces all limits."""
    expires: Expires | None = None


class RotateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a key gets another secret."""

    grace: Annotated[
        Moment | Annotated[int, Meta(ge=0, le=MOST)],
        Meta(description="How long the present secret stays valid: such as `1h`, or seconds."),
    ] = 0


class KeyLimits(Answer):
    """The limits of a key; null for those that it does not have."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    max_tokens: int | None


class KeyObject(Answer):
    """A key, without its secret. Times are seconds since 1970."""

    object: Literal["key"]
    id: Annotated[str, Meta(pattern="^key_[0-9a-f]{16}$")]
    name: str
    prefix: Annotated[str, Meta(description="The beginning of its newest secret.")]
    scopes: list[Scope]
    models: Annotated[list[str] | None, Meta(description="Null for all models.")]
    limits: KeyLimits
    filter_file: Annotated[
        str | None, Meta(description="Its own content filter; only the command line sets it.")
    ]
    created: Count
    expires: Annotated[Count | None, Meta(description="Null for never.")]
    revoked: Count | None
    last_used: Annotated[Count | None, Meta(description="To the hour.")]
    valid: Annotated[bool, Meta(description="Whether it is neither revoked nor expired.")]


class KeyWithSecret(KeyObject):
    """A key that has just got a secret."""

    key: Annotated[
        str,
        Meta(description="The secret, which clients send. No other answer ever contains it."),
    ]


class KeyList(Answer):
    """The keys in the order of their creation."""

    object: Literal["list"]
    data: list[KeyObject]


class OwnKey(Answer):
    """What the caller of this request may do."""

    object: Literal["key.self"]
    needed: Annotated[
        bool, Meta(description="Whether requests need a key; if not, all scopes are allowed.")
    ]
    id: str | None
    name: str | None
    scopes: Annotated[
        list[Scope], Meta(description="All that it allows: `admin` includes all others.")
    ]
    models: Annotated[list[str] | None, Meta(description="Null for all models.")]
    limits: KeyLimits
