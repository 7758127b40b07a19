"""Simpler forms of a JSON schema, for formats that do not write arguments as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offgrid.chat.arguments import json_type, resolve
from offgrid.grammar.checked import WHOLE
from offgrid.grammar.texts import MORE_PATTERNS

_MAX_DEPTH = 16
_MAX_ALTERNATIVES = 64
_MAX_SHAPES = 16
_MAX_SEEN = 2048
"""Schemas that are looked at to take one apart."""
_NOTES = frozenset((
    "title", "description", "default", "examples", "$comment", "deprecated", "readOnly",
    "writeOnly", "$id", "$defs", "definitions", "discriminator",
))  # fmt: skip
_COMPOSED = frozenset(("$ref", "allOf", "anyOf", "oneOf", "enum", "const", "type"))
_IMPLIED = (
    ("object", ("properties", "required", "additionalProperties", "patternProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems")),
    ("string", ("pattern", "minLength", "maxLength", "format", MORE_PATTERNS)),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)

_STRICTER = {
    "minLength": max, "maxLength": min, "minItems": max, "maxItems": min,
    "minimum": max, "maximum": min, "exclusiveMinimum": max, "exclusiveMaximum": min,
}  # fmt: skip
"""Keyword -> which of two values implies the other."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """The members that an object may have.

    Attributes:
        properties: key -> schema, in the order of the schema.
        required: those that it must have.
        extra: schema of further members, None if the schema invites none.
        closed: whether the schema forbids further members.
    """

    properties: Mapping[str, Any]
    required: frozenset[str]
    extra: Any = None
    closed: bool = False


@dataclass
class Counter:
    """Counts schemas that are looked at."""

    number: int = 0


def within(schema: Any, root: Json) -> Json:
    """Return a part of a schema as a schema of its own, with all that it refers to."""
    own: Json = dict(schema) if isinstance(schema, Mapping) else {}
    if schema is False:
        return {"not": {}}
    if '"$ref"' not in json.dumps(own):
        return own
    # References count from the root, which becomes one of the definitions.
    plain = {key: value for key, value in own.items() if key not in ("$defs", "definitions")}
    return {**_moved(plain), "$defs": {WHOLE: _moved(root)}}


def _moved(value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: f"#/$defs/{WHOLE}{item[1:]}"
        if key == "$ref" and isinstance(item, str) and item.startswith("#")
        else _moved(item)
        for key, item in value.items()
    }


def alternatives(schema: Any, root: Json, seen: Counter | None = None) -> list[Json] | None:
    """Return schemas of one type each, one of which a value must follow.

    A schema has a ``type`` and its keywords, or only ``enum`` with values of one kind, strings or
    others, or nothing, which is any value. No alternative is left if no value can follow the
    schema. None if it cannot be taken apart: references may lead to more schemas than a program can
    look at, so there is a limit.

    Args:
        schema: the schema.
        root: the whole schema, from which references count.
        seen: counts the schemas that are looked at.
    """
    return _Taker(root, seen or Counter()).alternatives(schema, 0)


class _Taker:
    """Takes one schema apart."""

    def __init__(self, root: Json, seen: Counter) -> None:
        self._root = root
        self._seen = seen
        self._most = seen.number + _MAX_SEEN

    def alternatives(self, schema: Any, depth: int) -> list[Json] | None:
        self._seen.number += 1
        if schema is True:
            return [{}]
        if schema is False:
            return []
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._seen.number > self._most:
            return None
        base = {key: value for key, value in schema.items() if key not in _NOTES}
        if base.get("enum") == []:
            return []
        if "$ref" in base:
            target = resolve(base.pop("$ref"), self._root)
            return self._merged([target, base], depth)
        if "allOf" in base:
            parts = base.pop("allOf")
            return self._merged([base, *parts], depth)
        for key in ("anyOf", "oneOf"):
            if key in base:
                return self._any(base.pop(key), base, depth)
        return _simple(base)

    def _any(self, branches: Iterable[Any], base: Json, depth: int) -> list[Json] | None:
        """Return the alternatives of all branches, each of which must follow ``base`` too."""
        flat: list[Json] = []
        for branch in branches:
            found = self._merged([branch, base], depth)
            if found is None or len(flat) + len(found) > _MAX_ALTERNATIVES:
                return None
            flat += found
        return flat

    def _merged(self, parts: Iterable[Any], depth: int) -> list[Json] | None:
        """Return the alternatives of a value that must follow several schemas."""
        whole: Json = {}
        for part in parts:
            if part is True:
                continue
            if not isinstance(part, Mapping):
                return None
            own = {key: value for key, value in part.items() if key not in _NOTES}
            more = [*whole.get(MORE_PATTERNS, ()), *own.pop(MORE_PATTERNS, ())]
            for key in own.keys() & whole.keys():
                if own[key] == whole[key]:
                    continue
                if key == "pattern":
                    more.append(whole[key])
                elif key in _STRICTER:
                    own[key] = _STRICTER[key](own[key], whole[key])
                else:
                    return None
            whole |= own
            if more:
                whole[MORE_PATTERNS] = more
        return self.alternatives(whole, depth + 1)


def _simple(schema: Json) -> list[Json] | None:
    types = schema.get("type")
    names = [types] if isinstance(types, str) else types
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        if schema.keys() - {"enum", "const", "type"}:
            return None
        kept = [value for value in values if names is None or _fits(value, names)]
        texts = [value for value in kept if isinstance(value, str)]
        others = [value for value in kept if not isinstance(value, str)]
        return [{"enum": group} for group in (texts, others) if group]
    if names is None:
        names = [kind for kind, words in _IMPLIED if any(word in schema for word in words)]
        if not names:
            return None if schema else [{}]
    return [_of_type(schema, name) for name in names]


def _of_type(schema: Json, name: str) -> Json:
    """Return a schema with one type, without the keywords of others."""
    kind = "number" if name == "integer" else name
    foreign = {word for other, words in _IMPLIED if other != kind for word in words}
    return {**{key: value for key, value in schema.items() if key not in foreign}, "type": name}


def _fits(value: Any, names: list[str]) -> bool:
    kind = json_type(value)
    whole = isinstance(value, float) and value.is_integer() and "integer" in names
    return whole or kind in names or (kind == "integer" and "number" in names)


def shapes(schema: Any, root: Json, depth: int = 0) -> list[Shape] | None:
    """Return the shapes that an object may have, None if the schema cannot be taken apart."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    if {"if", "not", "enum", "const", "patternProperties"} & schema.keys():
        return None
    found: list[Shape] | None = [_own_shape(schema)] if _says_members(schema) else []
    groups: list[list[Any]] = [[part] for part in schema.get("allOf", ())]
    if "$ref" in schema:
        groups.append([resolve(schema["$ref"], root)])
    groups += [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    for group in groups:
        several: list[Shape] = []
        for branch in group:
            inner = shapes(branch, root, depth + 1)
            if inner is None:
                return None
            several += inner
        found = several if not found else _both(found, several)
        if len(found) > _MAX_SHAPES or not found:
            return None
    return found or [Shape({}, frozenset(), {})]


def _says_members(schema: Mapping[str, Any]) -> bool:
    return any(key in schema for key in ("properties", "required", "additionalProperties"))


def _own_shape(schema: Mapping[str, Any]) -> Shape:
    properties = dict(schema.get("properties") or {})
    required = frozenset(schema.get("required") or ())
    extra = schema.get("additionalProperties", None if "properties" in schema else {})
    extra = {} if extra is True else None if extra is False else extra
    for key in schema.get("required") or ():
        properties.setdefault(key, {} if extra is None else extra)
    closed = schema.get("additionalProperties") is False
    return Shape(properties, required, extra, closed)


def _both(first: list[Shape], second: list[Shape]) -> list[Shape]:
    """Return the shapes of objects that have a shape of each list."""
    found = []
    for one in first:
        for two in second:
            shared = _shared(one, two)
            if shared.required <= shared.properties.keys():
                found.append(shared)
    return found


def _shared(one: Shape, two: Shape) -> Shape:
    properties: Json = {}
    for key in dict.fromkeys((*one.properties, *two.properties)):
        if any(shape.closed and key not in shape.properties for shape in (one, two)):
            continue
        schemas = [shape.properties.get(key, shape.extra) for shape in (one, two)]
        known = [schema for schema in schemas if schema not in (None, {})]
        properties[key] = {"allOf": known} if len(known) > 1 else (known or [{}])[0]
    extras = [shape.extra for shape in (one, two)]
    extra = None if None in extras else {"allOf": [e for e in extras if e]} if any(extras) else {}
    required = one.required | two.required
    return Shape(properties, required, extra, one.closed or two.closed)
