"""API keys."""

from __future__ import annotations

from full_requests.full import Full


def key_requests(id: str, starter: str, number: int = 0) -> list[Full]:
    """The endpoints that create and change keys. They need a server whose keys may change.

    Args:
        id: id of a key that may be changed.
        starter: id of a model.
        number: makes the name of the new key unique.
    """
    limits = {
        "requests_per_minute": 5, "tokens_per_minute": 600, "concurrent_requests": 2,
        "max_tokens": 100,
    }  # fmt: skip
    grant = {
        "scopes": ["inference", "stats"], "models": [starter], "limits": limits, "expires": "30d"
    }  # fmt: skip
    return [
        Full("/v1/keys", {"name": f"ward {number}"}, grant),
        Full("/v1/keys/{id}", {}, grant, values={"id": id}),
        Full("/v1/keys/{id}/rotate", {}, {"grace": "1h"}, values={"id": id}),
    ]
