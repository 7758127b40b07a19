"""Fields that are validated but ignored: metadata, or features that a local server does not offer.

Their types are OpenAI's, so that a mistake is found here as it is there. Objects may have further
fields: newer clients send new ones, and these would have no effect either.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
Verbosity = Literal["low", "medium", "high"]
# The first spelling was documented for a while; clients of that time still send it.
CacheRetention = Literal["in-memory", "in_memory", "24h"]


class Moderation(msgspec.Struct, frozen=True):
    """Options of moderation, which this server does not do."""

    model: str
    policy: dict[str, Any] | None = None


class PromptCacheOptions(msgspec.Struct, frozen=True):
    """Options of the prompt cache, which this server always uses."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None
    comparison_response_id: str | None = None
    prewarm: bool | None = None


class InertFields(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all requests except those of ``/v1/responses``, which has more such fields."""

    metadata: Metadata | None = None
    moderation: Moderation | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: Verbosity | None = None


IGNORED = frozenset(InertFields.__struct_fields__)
