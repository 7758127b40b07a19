"""``null`` counts as absent, at any depth of a body.

Many clients write the fields that they do not use as ``null``, also inside messages and tools.
"""

from __future__ import annotations

from typing import Any

Path = tuple[str, ...]

_LEVELS = 12
"""Levels of lists and objects that are searched; no field that is checked is deeper."""
_VALUES: frozenset[Path] = frozenset(
    {
        # Tokens and texts, whose places in the list matter, and which may be a million.
        ("prompt",),
        ("tokens",),
        # Pairs; the parser of the field leaves out those whose bias is null.
        ("logit_bias",),
        # Values for programs, in which null is a value.
        ("chat_template_kwargs",),
        ("messages", "tool_calls", "function", "arguments"),
    }
)
_SCHEMA_PATHS: frozenset[Path] = frozenset(
    {
        ("response_format", "schema"),
        ("response_format", "json_schema", "schema"),
        ("json_schema",),
        ("guided_json",),
        ("structured_outputs", "json"),
        ("tools", "function", "parameters"),
        ("tools", "parameters"),
        ("functions", "parameters"),
        ("text", "format", "schema"),
    }
)
_PLACES: frozenset[Path] = frozenset({("documents",)})
"""Lists whose items are counted from their beginning, so that none may be left out."""

_SCHEMAS = frozenset(
    {
        "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if",
        "items", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
_NAMES = frozenset({"required", "type"})
_ANY_VALUE = frozenset({"const", "default", "example"})
"""Keywords whose value may be ``null``."""


def present(body: dict[str, Any], *, items: bool = False) -> dict[str, Any]:
    """Return a body without the fields and list items that are ``null``; it is not changed.

    Args:
        body: the fields of a request.
        items: whether ``input`` is a list of items (in ``/v1/responses``) and not of texts or
            token ids (in ``/v1/embeddings``), whose places in the list matter.
    """
    values = _VALUES if items else _VALUES | {("input",)}
    return {
        name: _present(value, (name,), _LEVELS, values)
        for name, value in body.items()
        if value is not None
    }


def _present(value: Any, path: Path, levels: int, values: frozenset[Path]) -> Any:
    if not isinstance(value, (dict, list)) or levels == 0 or path in values:
        return value
    if isinstance(value, dict):
        if path in _SCHEMA_PATHS:
            return without_null_keywords(value)
        return {
            name: _present(inner, (*path, name), levels - 1, values)
            for name, inner in value.items()
            if inner is not None
        }
    keep = path in _PLACES
    return [_present(item, path, levels - 1, values) for item in value if keep or item is not None]


def without_null_keywords(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema without the keywords that are ``null``; it is not changed.

    ``null`` stays where a schema may contain any value: in ``const``, ``default`` and ``example``,
    and inside ``enum`` and ``examples``.
    """
    root = dict(schema)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for name, value in list(node.items()):
            if value is None:
                if name not in _ANY_VALUE:
                    del node[name]
            elif isinstance(value, dict):
                if name in _MAPS:
                    node[name] = {key: _copied(inner, waiting) for key, inner in value.items()
                                  if inner is not None}  # fmt: skip
                elif name in _SCHEMAS:
                    node[name] = _copied(value, waiting)
            elif isinstance(value, list):
                if name in _LISTS:
                    node[name] = [_copied(inner, waiting) for inner in value if inner is not None]
                elif name in _NAMES:
                    node[name] = [inner for inner in value if inner is not None]
    return root


def _copied(schema: Any, waiting: list[dict[str, Any]]) -> Any:
    """Return a copy of a schema that is to be searched as well; anything else unchanged."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    waiting.append(copy)
    return copy
