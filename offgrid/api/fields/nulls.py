"""``null`` counts as absent, at any depth of a body.

Many clients write the fields that they do not use as ``null``, also inside messages and tools.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

from offgrid.api.fields import notices

_LEVELS = 12
"""Levels of lists and objects that are searched; no field that is checked is deeper."""


class _Rule(enum.Enum):
    """What is special about a value in a body."""

    VALUE = enum.auto()
    """Null is a value, or the places of the items matter. It is not searched."""
    PLACES = enum.auto()
    """The places of the items matter, but null fields in the items are absent."""
    SCHEMA = enum.auto()
    """A JSON schema: see :func:`without_null_keywords`."""


_Rules = dict[str, Any]
"""Field -> its rule, or the rules of the fields in it; lists have the rules of their items."""

_RULES: _Rules = {
    # Tokens and texts, of which there may be a million.
    "prompt": _Rule.VALUE,
    "tokens": _Rule.VALUE,
    "continuation": _Rule.VALUE,
    "documents": _Rule.PLACES,
    **dict.fromkeys(("text_1", "text_2", "data_1", "data_2", "queries"), _Rule.VALUE),
    # Pairs; the parser of the field leaves out those whose bias is null.
    "logit_bias": _Rule.VALUE,
    # Values for programs.
    "chat_template_kwargs": _Rule.VALUE,
    "messages": {
        "tool_calls": {"function": {"arguments": _Rule.VALUE}},
        "content": {"input": _Rule.VALUE},
    },
    "input": {"content": {"data": _Rule.VALUE}},
    "questions": {"instructions": {"data": _Rule.VALUE}},
    "response_format": {"schema": _Rule.SCHEMA, "json_schema": {"schema": _Rule.SCHEMA}},
    "json_schema": _Rule.SCHEMA,
    "format": _Rule.SCHEMA,
    "guided_json": _Rule.SCHEMA,
    "structured_outputs": {"json": _Rule.SCHEMA},
    "output_config": {"format": {"schema": _Rule.SCHEMA}},
    "output_format": {"schema": _Rule.SCHEMA},
    "tools": {
        "function": {"parameters": _Rule.SCHEMA},
        "parameters": _Rule.SCHEMA,
        "input_schema": _Rule.SCHEMA,
        "input_examples": _Rule.VALUE,
    },
    "functions": {"parameters": _Rule.SCHEMA},
    "text": {"format": {"schema": _Rule.SCHEMA}},
}
_NONE: _Rules = {}

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
    rules = _RULES if items else {**_RULES, "input": _Rule.VALUE}
    shorter: list[Any] = []
    present: dict[str, Any] = _present(body, rules, _LEVELS, shorter)
    if shorter:
        notices.set_places(dict(_left(body, rules, _LEVELS, "")))
    return present


def present_in(items: list[Any]) -> list[Any]:
    """Return a list without the fields of its items that are ``null``; all items stay."""
    present: list[Any] = _present(items, _Rule.PLACES, _LEVELS, [])
    return present


def _present(value: Any, rules: Any, levels: int, shorter: list[Any]) -> Any:
    """Lists that lose items are added to ``shorter``."""
    if levels == 0 or rules is _Rule.VALUE:
        return value
    if isinstance(value, dict):
        if rules is _Rule.SCHEMA:
            return without_null_keywords(value)
        inner = rules if isinstance(rules, dict) else _NONE
        return {
            name: _present(item, inner.get(name, _NONE), levels - 1, shorter)
            if isinstance(item, (dict, list))
            else item
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        places = rules is _Rule.PLACES
        left = [
            _present(item, rules, levels - 1, shorter) if isinstance(item, (dict, list)) else item
            for item in value
            if places or item is not None
        ]
        if len(left) < len(value):
            shorter.append(value)
        return left
    return value


def _left(value: Any, rules: Any, levels: int, path: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the path of each list that loses items, and the places of those that are left."""
    if levels == 0 or rules in (_Rule.VALUE, _Rule.SCHEMA):
        return
    if isinstance(value, dict):
        inner = rules if isinstance(rules, dict) else _NONE
        for name, item in value.items():
            place = f"{path}.{name}" if path else name
            yield from _left(item, inner.get(name, _NONE), levels - 1, place)
    elif isinstance(value, list):
        left = [at for at, item in enumerate(value) if rules is _Rule.PLACES or item is not None]
        if len(left) < len(value):
            yield path, left
        for number, at in enumerate(left):
            yield from _left(value[at], rules, levels - 1, f"{path}[{number}]")


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
