"""Completes descriptions of functions, for templates that fail without optional parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offgrid.chat.arguments import Types

_MAX_DEPTH = 16

Json = dict[str, Any]


def completed(tool: Json) -> Json:
    """Return a function as the API describes it, in which no part is missing.

    A missing description is an empty text, missing parameters are none, and every parameter has a
    ``type``, but not ``null``, which some templates do not know. All else stays as it is.
    """
    function = {key: value for key, value in tool["function"].items() if value is not None}
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    full = {
        "description": "", **function,
        "parameters": _object(
            {"type": "object", "properties": {}, **parameters}, Types(parameters), 0
        ),
    }  # fmt: skip
    return {**tool, "function": full}


def _object(schema: Json, types: Types, depth: int) -> Json:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or depth > _MAX_DEPTH:
        return schema
    return {
        **schema,
        "properties": {key: _value(value, types, depth + 1) for key, value in properties.items()},
    }


def _value(schema: Any, types: Types, depth: int) -> Json:
    given = schema if isinstance(schema, Mapping) else {}
    kinds = sorted((types.of(given) or frozenset()) - {"null"}) or ["string"]
    full = {"description": "", **given, "type": kinds[0] if len(kinds) == 1 else kinds}
    if kinds == ["object"]:
        full.setdefault("additionalProperties", {})
    if isinstance(full.get("items"), Mapping) and depth <= _MAX_DEPTH:
        full["items"] = _value(full["items"], types, depth + 1)
    return _object(full, types, depth)
