"""Values of arguments that a model writes as text, read by the types that the schema allows."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_LITERAL = 64 * 1024
"""Characters. Python's own parser holds the interpreter's lock for all of the text."""
_MAX_NESTED = 64
_MAX_SCHEMAS = 256
"""Schemas of which one property may consist; further ones are taken to allow any type."""
_MAX_ALL = 8192
"""The same for all properties together: each may refer to the same schemas."""
_PER_TAG = 64
"""Schemas that are looked at for each tag, besides those."""
_KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("boolean", bool), ("integer", int), ("number", (int, float)), ("null", type(None)),
    ("object", dict), ("array", list), ("string", str),
)  # fmt: skip


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON (RFC 8259: no infinite number either), or nested too deeply.
    """
    try:
        return json.loads(text, strict=False, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def write_json(value: Any) -> str:
    """Return a value as JSON that UTF-8 can encode.

    Raises:
        ValueError: a number is infinite, or the value is nested too deeply.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
        return json.dumps(value)
    return text


def python_source(text: str) -> str:
    """Return a Python literal without escapes that Python does not know: it warns of them."""
    return _ESCAPE.sub(lambda match: match[0] if match[1] in _ESCAPES else "\\" + match[0], text)


_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = "\n\\'\"abfnrtv01234567xNuU"


def types_of(schema: Mapping[str, Any] | None) -> dict[str, frozenset[str] | None]:
    """Return the types that each property of an object schema may have; None for any type.

    Where parts of the schema give one property different types, it may have all of them.
    """
    if not isinstance(schema, Mapping):
        return {}
    types = Types(schema)
    found: dict[str, frozenset[str] | None] = {}
    for part in types.parts((schema,)):
        properties = part.get("properties")
        if isinstance(properties, Mapping):
            for key, value in properties.items():
                kinds = types.of(value)
                known = found.get(key, frozenset())
                found[key] = None if kinds is None or known is None else known | kinds
    return found


class Types:
    """Finds the types that parts of a schema allow. It looks at a limited number of schemas in all;
    further ones are taken to allow any type.

    Args:
        root: the whole schema, from which references count.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_ALL

    def allow(self, more: int) -> None:
        """Look at more schemas."""
        self._left += more

    def parts(self, schemas: Iterable[Any], most: int = _MAX_ALL) -> list[Mapping[str, Any]]:
        """Return some schemas and those that they are composed of, each once; ``most`` at most."""
        waiting = list(schemas)
        parts: dict[int, Mapping[str, Any]] = {}
        for schema in waiting:  # which grows meanwhile
            if self._left <= 0 or len(parts) >= most:
                break
            self._left -= 1
            if not isinstance(schema, Mapping) or id(schema) in parts:
                continue
            parts[id(schema)] = schema
            if "$ref" in schema:
                waiting.append(resolve(schema["$ref"], self._root))
            for key in ("allOf", "anyOf", "oneOf"):
                inner = schema.get(key)
                waiting += inner[: self._left] if isinstance(inner, list) else ()
        return list(parts.values())

    def of(self, schema: Any) -> frozenset[str] | None:
        """Return the types that a schema allows, None for any."""
        return self._of(schema, set())

    def _of(self, schema: Any, seen: set[int]) -> frozenset[str] | None:
        """Return the types of a schema; ``seen`` are schemas whose types count already."""
        if not isinstance(schema, Mapping) or len(seen) > _MAX_SCHEMAS or self._left <= 0:
            return None
        if id(schema) in seen:
            return frozenset()
        seen.add(id(schema))
        self._left -= 1
        if "$ref" in schema:
            return self._of(resolve(schema["$ref"], self._root), seen)
        kind = schema.get("type")
        if isinstance(kind, (str, list)):
            kinds = [kind] if isinstance(kind, str) else kind
            return frozenset(item for item in kinds if isinstance(item, str))
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list):
            return frozenset(json_type(value) for value in values)
        for key in ("anyOf", "oneOf", "allOf"):
            inner = schema.get(key)
            if isinstance(inner, list):
                types = [self._of(item, seen) for item in inner[: _MAX_SCHEMAS + 1]]
                known = [item for item in types if item is not None]
                if len(known) < len(types) and key != "allOf":
                    return None
                return frozenset().union(*known) if known else None
        return None


def resolve(ref: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the target of a reference within the schema, or an empty schema."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return {}
    target: Any = root
    for step in ref[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        target = target.get(step) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}


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


def unquoted(text: str, quotes: tuple[str, str] | tuple[()]) -> str | None:
    """Return what stands between quotes, None for a text without.

    A closing quote within the text is written as the end of one quoted part and the beginning of
    the next, as in XML.
    """
    text = text.strip()
    if not quotes or len(text) < sum(map(len, quotes)):
        return None
    opened, closed = quotes
    if not (text.startswith(opened) and text.endswith(closed)):
        return None
    return text[len(opened) : -len(closed)].replace(closed + opened, "")


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
        value = ast.literal_eval(python_source(text))
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return _NOTHING


def value_of_tags(text: str, prefix: str, schema: Mapping[str, Any] | None, key: str) -> Any:
    """Return the value of an argument whose objects and lists are written with tags.

    Members stand in tags with their names, items in tags named ``item``; each tag follows
    ``prefix``. A text that is not made of tags is a value by itself.

    Args:
        text: what stands in the tag of the argument.
        prefix: text before each tag.
        schema: the schema of all arguments.
        key: the argument.
    """
    root = schema if isinstance(schema, Mapping) else {}
    types = Types(root)
    outer = _Tag("", types.parts((root,), _MAX_SCHEMAS))
    stack = [outer, outer.child(key, types)]
    at = 0
    for match in re.finditer(re.escape(prefix) + r"<(/?)([^<>/]{1,256})>", text):
        between, tag = text[at : match.start()], stack[-1]
        at = match.end()
        if match[1]:
            if len(stack) == 2 or match[2] != tag.name:
                break
            stack.pop()
            stack[-1].members.append((tag.name, tag.value(between, types)))
        elif between.strip() or len(stack) > _MAX_NESTED:
            break
        else:
            stack.append(tag.child(match[2], types))
    else:
        tag = stack[-1]
        if len(stack) == 2 and not (tag.members and text[at:].strip()):
            return tag.value(text[at:], types)
    return text


_OBJECT, _ARRAY = frozenset(("object",)), frozenset(("array",))


class _Tag:
    """One tag: its name, the schemas of its value, and the members read so far."""

    def __init__(self, name: str, schemas: list[Mapping[str, Any]]) -> None:
        self.name = name
        self.schemas = schemas
        self.members: list[tuple[str, Any]] = []

    def child(self, name: str, types: Types) -> _Tag:
        """Return a new tag within this one."""
        types.allow(_PER_TAG)
        inner = []
        for schema in self.schemas:
            properties = schema.get("properties")
            own = properties.get(name) if isinstance(properties, Mapping) else None
            other = schema.get("items" if name == "item" else "additionalProperties")
            inner.append(other if own is None else own)
        return _Tag(name, types.parts(inner, _MAX_SCHEMAS))

    def value(self, text: str, types: Types) -> Any:
        """Return the value; ``text`` is what follows the last member."""
        kinds = [types.of(schema) for schema in self.schemas]
        known = [kind for kind in kinds if kind is not None]
        allowed = frozenset().union(*known) if known else None
        if not self.members:
            if not text.strip() and allowed in (_OBJECT, _ARRAY):
                return {} if allowed == _OBJECT else []
            return parse_value(text, allowed)
        if all(name == "item" for name, _ in self.members) and allowed != _OBJECT:
            return [value for _, value in self.members]
        return dict(self.members)
