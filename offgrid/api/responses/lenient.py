"""``null`` counts as absent, at any depth, except inside JSON that belongs to the client."""

from __future__ import annotations

from typing import Any

_OPAQUE = frozenset(
    {"arguments", "input_schema", "metadata", "output_schema", "parameters", "schema"}
)
"""Fields whose value is the client's own JSON, where ``null`` may mean something."""
_LEVELS = 10
"""Nested lists and objects that are searched: no field of this API has more."""


def without_nulls(value: Any, levels: int = _LEVELS) -> Any:
    """Return a JSON value without the keys and the list entries that are null."""
    if levels == 0:
        return value
    if isinstance(value, dict):
        return {
            key: inner if key in _OPAQUE else without_nulls(inner, levels - 1)
            for key, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        return [without_nulls(inner, levels - 1) for inner in value if inner is not None]
    return value
