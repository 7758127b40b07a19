"""JSON schemas before they are compiled: limits, and where in a schema something is wrong.

llguidance compiles schemas in bounded time with the exceptions that are checked here. What a
keyword means is its business (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from offgrid.engine.pattern import MAX_REPETITION, repetition

MAX_NODES = 20_000
"""Objects, lists and values of a schema."""
MAX_NESTING = 3_000
"""Levels of a schema where every reference is followed once; the compiler recurses."""
MAX_MULTIPLE = 10_000
"""Remainders that the smallest common multiple of all ``multipleOf`` has."""
MAX_PATTERNS = 10
"""Different patterns and formats that ``allOf`` may lay upon one value."""
MAX_NAME_PATTERNS = 64
"""Patterns of property names in a schema; each is compared with each."""
MAX_OPTIONAL = 250
"""Properties of an object that may be left out: each can follow each."""
_LOCATE_SECONDS = 0.3
"""Time that is spent on finding where a schema is wrong."""

_ONE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_FORMATS = frozenset({
    "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname",
    "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template",
    "json-pointer",
    "relative-json-pointer", "regex",
})  # fmt: skip
"""https://json-schema.org/draft/2020-12/json-schema-validation#name-defined-formats"""
Path = tuple[str | int, ...]


class SchemaError(ValueError):
    """The schema cannot be honoured. ``pointer`` is the JSON pointer of the place at fault."""

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.pointer = "".join(f"/{_escape(str(step))}" for step in path)


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def parse_schema(source: str) -> dict[str, Any]:
    """Return a schema that is safe to compile.

    Raises:
        SchemaError: not a JSON object, or beyond a limit.
    """
    try:
        schema = json.loads(source)
    except RecursionError:
        raise SchemaError("it is nested too deeply") from None
    except ValueError as ex:
        raise SchemaError(f"it is not valid JSON: {ex}") from None
    if not isinstance(schema, dict):
        raise SchemaError("a schema must be an object")
    if "x-guidance" in schema:
        raise SchemaError("x-guidance is not supported", ("x-guidance",))
    _check_size(schema)
    _check_multiples(schema)
    names = 0
    for path, node in subschemas(schema):
        _leave_out(node)
        _check_node(path, node)
        names += len(node["patternProperties"]) if _is_object(node, "patternProperties") else 0
        if names > MAX_NAME_PATTERNS:
            raise SchemaError(f"more than {MAX_NAME_PATTERNS} patterns for names", path)
        if isinstance(node.get("allOf"), list) and "allOf" not in path:
            _check_patterns(schema, path, node)
    return schema


def leave_out_annotations(schema: dict[str, Any]) -> None:
    """Take out of a schema what asks for nothing and the compiler refuses."""
    for _, node in subschemas(schema):
        _leave_out(node)


def _leave_out(node: dict[str, Any]) -> None:
    """Formats that the standard does not know are annotations."""
    if isinstance(node.get("format"), str) and node["format"] not in _FORMATS:
        del node["format"]
    if node.get("uniqueItems") is False:
        del node["uniqueItems"]


def _is_object(node: dict[str, Any], keyword: str) -> bool:
    return isinstance(node.get(keyword), dict)


def _check_node(path: Path, node: dict[str, Any]) -> None:
    properties = node.get("properties")
    required = node.get("required")
    if isinstance(properties, dict) and isinstance(required, (list, type(None))):
        always = {name for name in required or () if isinstance(name, str)}
        if len(properties.keys() - always) > MAX_OPTIONAL:
            raise SchemaError(f"more than {MAX_OPTIONAL} properties are not required", path)
    patterns = node.get("patternProperties")
    for pattern in [node.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
        if isinstance(pattern, str) and repetition(pattern) > MAX_REPETITION:
            raise SchemaError("a pattern repeats too much", path)


def children(node: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the schemas right inside a schema, each with the way to it."""
    if not isinstance(node, dict):
        return
    for keyword in _NAMED:
        inner = node.get(keyword)
        if isinstance(inner, dict):
            yield from (((keyword, name), value) for name, value in inner.items())
    for keyword in _MANY:
        inner = node.get(keyword)
        if isinstance(inner, list):
            yield from (((keyword, index), value) for index, value in enumerate(inner))
    for keyword in _ONE:
        if isinstance(node.get(keyword), dict):
            yield (keyword,), node[keyword]


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a schema and all schemas in it, each with its path."""
    stack: list[tuple[Path, Any]] = [((), schema)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            yield path, node
            stack += ((path + step, child) for step, child in children(node))


def _check_size(schema: dict[str, Any]) -> None:
    """Count nodes, and the levels that are reached if each target of a ``$ref`` is entered."""
    nodes, targets = 0, set()
    stack: list[tuple[Any, int]] = [(schema, 1)]
    own = 0
    while stack:
        node, depth = stack.pop()
        nodes += 1
        own = max(own, depth)
        if nodes > MAX_NODES:
            raise SchemaError(f"it has more than {MAX_NODES} parts")
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                targets.add(node["$ref"])
            stack += ((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            stack += ((value, depth + 1) for value in node)
    nesting = own + sum(_depth(_resolve(schema, target)) for target in targets)
    if nesting > MAX_NESTING:
        raise SchemaError(f"it is nested more than {MAX_NESTING} deep, references followed")


def _depth(node: Any) -> int:
    deepest, stack = 0, [(node, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        inner = node.values() if isinstance(node, dict) else node
        if isinstance(node, (dict, list)):
            stack += ((value, depth + 1) for value in inner)
    return deepest


def _resolve(schema: dict[str, Any], reference: str) -> Any:
    """Where a local reference leads; nothing for others, which the compiler refuses."""
    node: Any = schema
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return None
    return node


def _check_multiples(schema: dict[str, Any]) -> None:
    """The compiler makes a state for every remainder, of the common multiple where several hold."""
    values: set[Fraction] = set()
    for path, node in subschemas(schema):
        value = node.get("multipleOf")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if not 1e-12 <= value <= 1e12:
            raise SchemaError("multipleOf is too small or too large", path)
        fraction = Fraction(str(value))
        if fraction in values:
            continue
        values.add(fraction)
        scale = math.lcm(*(fraction.denominator for fraction in values))
        if math.lcm(*(int(fraction * scale) for fraction in values)) > MAX_MULTIPLE:
            raise SchemaError(f"multipleOf makes more than {MAX_MULTIPLE} remainders", path)


def _check_patterns(schema: dict[str, Any], path: Path, node: dict[str, Any]) -> None:
    """The compiler intersects the patterns of a value; that takes long for more than some.

    Values are told apart by the name of the property that they are in or below of.
    """
    found: dict[str, set[str]] = {"": set()}
    entered: set[tuple[str, str]] = set()
    stack: list[tuple[Any, str]] = [(node, "")]
    while stack:
        current, name = stack.pop()
        if not isinstance(current, dict):
            continue
        for keyword in ("pattern", "format"):
            if isinstance(current.get(keyword), str):
                found.setdefault(name, set()).add(current[keyword])
        for step, child in children(current):
            if step[0] == "properties":
                stack.append((child, str(step[1])))
            elif step[0] not in ("$defs", "definitions"):
                stack.append((child, name))
        reference = current.get("$ref")
        if isinstance(reference, str) and (reference, name) not in entered:
            entered.add((reference, name))
            if len(entered) > MAX_NODES:
                raise SchemaError("its allOf refers to too much", path)
            stack.append((_resolve(schema, reference), name))
    if max(len(found[""] | patterns) for patterns in found.values()) > MAX_PATTERNS:
        raise SchemaError(f"allOf combines more than {MAX_PATTERNS} patterns or formats", path)


def locate(schema: dict[str, Any], message: str, fault: Callable[[str], str | None]) -> Path:
    """Find the smallest schema inside of ``schema`` that fails with the same message.

    Args:
        fault: compiles a schema given as JSON text; returns the message, None if all is well.
    """
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    path: Path = ()
    node = schema
    deadline = time.monotonic() + _LOCATE_SECONDS
    while True:
        for step, child in children(node):
            if time.monotonic() > deadline:
                return path
            if isinstance(child, dict) and fault(json.dumps({**shared, **child})) == message:
                path, node = path + step, child
                break
        else:
            return path
