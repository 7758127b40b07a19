"""Values of arguments that a model writes as text, read by the types that the schema allows."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

_MAX_LITERAL = 64 * 1024
"""Characters. Python's own parser holds the interpreter's lock for all of the text."""
_MAX_NESTED = 64
_KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool), ("integer", int), ("number", (int, float)), ("null", type(None)),
    ("object", dict), ("array", list), ("string", str),
)  # fmt: skip


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def types_of(schema: Mapping[str, Any] | None) -> dict[str, frozenset[str] | None]:
    """Return the types that each property of an object schema may have; None for any type."""
    if not isinstance(schema, Mapping):
        return {}
    found: dict[str, frozenset[str] | None] = {}
    for part in _parts(schema, schema, 0):
        properties = part.get("properties")
        if isinstance(properties, Mapping):
            for key, value in properties.items():
                found.setdefault(key, _types(value, schema, 0))
    return found


def property_schemas(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the properties of a plain object schema, None if it is composed of others."""
    root = schema
    for _ in range(8):
        if "$ref" not in schema:
            break
        schema = _resolve(schema["$ref"], root)
    if {"allOf", "anyOf", "oneOf", "if", "not", "$ref", "enum", "const"} & schema.keys():
        return None
    properties = schema.get("properties")
    return dict(properties) if isinstance(properties, Mapping) else None


def required_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """Return the required properties of a plain object schema."""
    root = schema
    for _ in range(8):
        if "$ref" not in schema:
            break
        schema = _resolve(schema["$ref"], root)
    required = schema.get("required")
    return frozenset(required) if isinstance(required, list) else frozenset()


def _parts(schema: Any, root: Mapping[str, Any], depth: int) -> list[Mapping[str, Any]]:
    """Return the schema and those that it is composed of."""
    if not isinstance(schema, Mapping) or depth > 8:
        return []
    parts = [schema]
    if "$ref" in schema:
        parts += _parts(_resolve(schema["$ref"], root), root, depth + 1)
    for key in ("allOf", "anyOf", "oneOf"):
        inner = schema.get(key)
        for item in inner if isinstance(inner, list) else ():
            parts += _parts(item, root, depth + 1)
    return parts


def _resolve(ref: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the target of a reference within the schema, or an empty schema."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return {}
    target: Any = root
    for step in ref[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        target = target.get(step) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str] | None:
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "$ref" in schema:
        return _types(_resolve(schema["$ref"], root), root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset((kind,))
    if isinstance(kind, list):
        return frozenset(item for item in kind if isinstance(item, str))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return frozenset(json_type(value) for value in values)
    for key in ("anyOf", "oneOf", "allOf"):
        inner = schema.get(key)
        if isinstance(inner, list):
            types = [_types(item, root, depth + 1) for item in inner]
            known = [item for item in types if item is not None]
            if len(known) < len(types) and key != "allOf":
                return None
            return frozenset().union(*known) if known else None
    return None


def json_type(value: Any) -> str:
    """Return the name of a value's JSON type; a whole number is an ``integer``."""
    return next((name for name, kind in _KINDS if isinstance(value, kind)), "string")


def parse_value(text: str, types: frozenset[str] | None) -> Any:
    """Return the value that a text stands for.

    Args:
        text: as the model wrote it: plain text for a string, otherwise JSON or a Python literal.
        types: the JSON types that the value may have; None for any.

    Text that fits no other type is a string: what a wrong value means is for the client to say.
    """
    if types is not None and types <= {"string"}:
        return text
    plain = text.strip()
    value = _as_json(plain)
    if value is _NOTHING and types is None:
        return text
    if value is _NOTHING:
        value = _as_python(plain)
    if value is _NOTHING:
        return text
    if types is None:
        return value
    fits = json_type(value) in types or (json_type(value) == "integer" and "number" in types)
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return int(value)
    return value if fits else text


_NOTHING: Any = object()


def _as_json(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        return _NOTHING


def _as_python(text: str) -> Any:
    """Return the value of a Python literal: what ``str()`` of a list, object or boolean gives."""
    lower = text.lower()
    if lower in ("true", "false", "null", "none"):
        return {"true": True, "false": False}.get(lower)
    if text[:1] not in "{[(" or len(text) > _MAX_LITERAL:
        return _NOTHING
    try:
        value = ast.literal_eval(text)
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return _NOTHING


def without_nested_tags(text: str, prefix: str, depth: int = 0) -> Any | None:
    """Return the object or list that is written with tags; None if the text has no tags.

    Members stand in tags with their names, items in tags named ``item``; each tag follows
    ``prefix``.
    """
    text = text.strip()
    if not text.startswith(f"{prefix}<") or depth > _MAX_NESTED:
        return None
    members: dict[str, Any] = {}
    items: list[Any] = []
    while text:
        match = re.match(re.escape(prefix) + r"<([^<>/]{1,256})>", text)
        if match is None:
            return None
        name, closing = match[1], f"{prefix}</{match[1]}>"
        end = _closing(text, f"{prefix}<{name}>", closing)
        if end < 0:
            return None
        inner = text[match.end() : end]
        value = without_nested_tags(inner, prefix, depth + 1)
        value = parse_value(inner, None) if value is None else value
        if name == "item":
            items.append(value)
        else:
            members[name] = value
        text = text[end + len(closing) :].strip()
    return items if items and not members else members


def _closing(text: str, opening: str, closing: str) -> int:
    """Return the index of the tag that closes the first one, -1 if none does."""
    depth, index = 0, 0
    while True:
        end = text.find(closing, index)
        if end < 0:
            return -1
        depth += text.count(opening, index, end) - 1
        if depth <= 0:
            return end
        index = end + len(closing)
