"""Validates and normalises JSON schemas for llguidance.

llguidance compiles schemas in bounded time, except for the cases that are checked here. It defines
the meaning of each keyword
(https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md). Where it would accept
values that the standard forbids, the schema is refused or narrowed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from offgrid.grammar.document import Document, Json, Path, SchemaError, children
from offgrid.grammar.formats import EXACT, PATTERNS
from offgrid.grammar.pattern import MAX_REPETITION, PatternError, repetition, rust_pattern
from offgrid.grammar.satisfiable import forbid_endless
from offgrid.grammar.simplify import simplify
from offgrid.grammar.texts import MAX_EXAMINED, is_empty

MAX_SOURCE = 256 * 1024
"""Bytes of a schema's text in UTF-8."""
MAX_NODES = 20_000
"""Objects, lists and values of a schema."""
MAX_DEPTH = 120
"""Nesting depth of objects and lists; the compiler's JSON reader allows few more."""
MAX_NESTING = 3_000
"""Depth of a schema if every reference is followed once; the compiler recurses."""
MAX_MULTIPLE = 10_000
"""Remainders of the least common multiple of all ``multipleOf``."""
MAX_PATTERNS = 10
"""Different patterns and formats that ``allOf`` may combine for one value."""
MAX_LOOKED_AT = 100_000
"""Schemas visited below ``allOf`` for that check, each as often as it is below one."""
MAX_NAME_PATTERNS = 64
"""Patterns of property names in a schema; each is compared with every other one."""
MAX_OPTIONAL = 250
"""Optional properties of an object: any of them can follow any other."""
MAX_ALTERNATIVES = 1_000
"""Objects and lists among the alternatives of a schema: all are followed at once."""
MAX_EXACT = 1 << 53
"""Largest exact integer, because the compiler's numbers are doubles."""
MAX_BOUND = 9 * 10**18
"""``minimum`` and ``maximum`` are narrowed to this; the compiler has none beyond 64 bits."""
MAX_NUMBER = 1e308
MAX_COUNT = (1 << 32) - 1
_UNSATISFIABLE = "Unsatisfiable"
LOCATE_CHARACTERS = 1_000_000
"""Characters compiled to find the place of an error in a schema."""
_LOCATE_SECONDS = 1.0
"""Processor time of the thread for that search."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_DEFINITIONS = ("$defs", "definitions")
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_TYPES = {"null", "boolean", "number", "integer", "string", "array", "object"}
_SCALARS = _TYPES - {"array", "object"}
_UNSUPPORTED = frozenset({
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor",
})  # fmt: skip
"""Refused in every draft, because a client that sends them expects them to be enforced. Only those
are left that ask for something: see :mod:`offgrid.grammar.simplify`."""
_OTHER_FORMATS = frozenset({
    "idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template",
    "json-pointer", "relative-json-pointer", "regex",
})  # fmt: skip
"""https://json-schema.org/draft/2020-12/json-schema-validation#name-defined-formats"""


def parse_schema(source: str, *, converted: bool = False) -> Json:
    """Return a schema that is safe to compile and that the compiler interprets correctly.

    Args:
        source: JSON of the schema.
        converted: whether its patterns have Rust's syntax already.

    Raises:
        SchemaError: the schema is not a JSON object, beyond a limit, not supported or
            unsatisfiable.
    """
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE:
        raise SchemaError(f"it has {size} bytes, the maximum is {MAX_SOURCE}")
    try:
        schema = json.loads(source, parse_constant=_no_number)
    except RecursionError:
        raise SchemaError("it is nested too deeply") from None
    except json.JSONDecodeError as ex:
        raise SchemaError(f"it is not valid JSON: {ex}") from None
    except ValueError:
        raise SchemaError("a number in it is not finite, or too long") from None
    if not isinstance(schema, dict):
        raise SchemaError("a schema must be an object")
    if "x-guidance" in schema:
        raise SchemaError("x-guidance is not supported", ("x-guidance",))
    _check_parts(schema)
    document = Document(schema)
    if simplify(document):
        document = Document(schema)
    for path, node in document.nodes:
        _check_words(path, node, document.children(node))
    _check_nesting(document)
    _check_multiples(document)
    patterns = _Patterns(document)
    names = 0
    for path, node in document.nodes:
        _check_node(path, node)
        names += len(node.get("patternProperties", ()))
        if names > MAX_NAME_PATTERNS:
            raise SchemaError(f"more than {MAX_NAME_PATTERNS} patterns for names", path)
        if "allOf" in node:
            patterns.check(path, node)
    if not converted:
        _forbid_empty_texts(document)
    forbid_endless(document)
    for path, node in document.nodes:
        if not converted:
            _convert_patterns(path, node)
        _adapt(path, node)
    return schema


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _check_parts(schema: Json) -> None:
    """Count parts and depth, and check all names and values for surrogates and size."""
    nodes = 0
    stack: list[tuple[Path, Any]] = [((), schema)]
    while stack:
        path, node = stack.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise SchemaError(f"it has more than {MAX_NODES} parts")
        if len(path) > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep", path)
        if isinstance(node, dict):
            if any(_is_half(name) for name in node):
                raise SchemaError("a property name contains an unpaired surrogate", path)
            stack += (((*path, name), value) for name, value in node.items())
        elif isinstance(node, list):
            stack += (((*path, index), value) for index, value in enumerate(node))
        elif isinstance(node, str) and _is_half(node):
            raise SchemaError("it contains an unpaired surrogate", path)
        elif _is_number(node) and not abs(node) <= MAX_NUMBER:
            raise SchemaError("a number is too large", path)


def _is_half(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _check_nesting(document: Document) -> None:
    document.link()
    depths = _depths(document.root)
    targets: dict[int, int] = {}
    for _, node in document.nodes:
        target = document.target(node)
        if target is not None:
            targets[id(target[1])] = depths.get(id(target[1]), 1)
    if depths[id(document.root)] + sum(targets.values()) > MAX_NESTING:
        raise SchemaError(f"it is nested more than {MAX_NESTING} deep, references followed")


def _depths(root: Json) -> dict[int, int]:
    """Return the depth of each object and list, its innermost values included."""
    order: list[Any] = []
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack += (value for value in _inner(node) if isinstance(value, (dict, list)))
    depths: dict[int, int] = {}
    for node in reversed(order):  # inner nodes first
        depths[id(node)] = 1 + max((depths.get(id(v), 1) for v in _inner(node)), default=0)
    return depths


def _inner(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def _check_words(path: Path, node: Json, inner: list[tuple[Path, Any]]) -> None:
    """Check that keywords are supported and have values of the right types."""
    unsupported = sorted(_UNSUPPORTED & node.keys())
    if unsupported:
        raise SchemaError(f"unsupported keywords: {json.dumps(unsupported)}", path)
    for keyword, value in node.items():
        wanted = _KINDS.get(keyword)
        if wanted and not wanted[1](value):
            raise SchemaError(f"{keyword} must be {wanted[0]}", path)
    for step, child in inner:
        if not _is_schema(child):
            raise SchemaError("a schema must be an object, true or false", path + step)
    types = node.get("type", "null")
    for name in [types] if isinstance(types, str) else types:
        if name not in _TYPES:
            raise SchemaError(f"Invalid type: {name}", path)
    if node.get("format") in _OTHER_FORMATS:
        raise SchemaError(f"Unknown format: {node['format']}", path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_COUNT and value == int(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _all(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(_COUNTS, ("a whole number from 0 to 4294967295", _is_count)),
    # In draft 4 some of these keywords are true or false.
    **dict.fromkeys((*_LOWER, *_UPPER), ("a number", lambda v: isinstance(v, (int, float)))),
    "multipleOf": ("a number", _is_number),
    **dict.fromkeys(("pattern", "format", "$ref", "$anchor"), ("a string", _is_text)),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), ("a list of schemas", _is_list)),
    "items": ("a schema", lambda v: _is_schema(v) or _is_list(v)),
    **dict.fromkeys(("additionalProperties", "additionalItems"), ("a schema", _is_schema)),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"),
                    ("an object of schemas", _is_object)),
    "required": ("a list of names", _all(_is_text)),
    "enum": ("a list", _is_list),
    "type": ("a name or a list of names", lambda v: _is_text(v) or _all(_is_text)(v)),
}  # fmt: skip


def _check_node(path: Path, node: Json) -> None:
    properties, required = node.get("properties", {}), node.get("required", ())
    if len(properties.keys() - set(required)) > MAX_OPTIONAL:
        raise SchemaError(f"more than {MAX_OPTIONAL} properties are optional", path)
    if node.get("minProperties", 0) > len(set(required)) + 1 and (
        node.get("patternProperties") or node.get("additionalProperties", True) is not False
    ):
        # A reader takes {"a": 1, "a": 2} as one property.
        raise SchemaError(
            "minProperties may exceed the number of required properties by at most one (repeated"
            " names would count only once)", path,
        )  # fmt: skip
    if "prefixItems" in node and isinstance(node.get("items"), list):
        raise SchemaError("items must be a schema if prefixItems is present", path)
    for keyword, sign in ((_LOWER[0], 1), (_LOWER[1], 1), (_UPPER[0], -1), (_UPPER[1], -1)):
        if node.get(keyword, 0) * sign > MAX_BOUND:
            raise SchemaError(f"{keyword} is too large", path)
    for pattern in [node.get("pattern", ""), *node.get("patternProperties", ())]:
        if repetition(pattern) > MAX_REPETITION:
            raise SchemaError("a pattern repeats too much", path)
    for value in [node.get("const"), *node.get("enum", ())]:
        _check_value(path, value)
    wide = sum(isinstance(value, (dict, list)) for value in node.get("enum", ()))
    for keyword in ("anyOf", "oneOf"):
        wide = max(wide, sum(not _is_scalar(branch) for branch in node.get(keyword, ())))
    if wide > MAX_ALTERNATIVES:
        raise SchemaError(f"it has more than {MAX_ALTERNATIVES} objects as alternatives", path)


def _forbid_empty_texts(document: Document) -> None:
    """Add ``"enum": []`` to strings whose pattern, format and length contradict each other."""
    left = MAX_EXAMINED
    for _, node in document.nodes:
        texts = node.get("type") in ("string", ["string"]) and "enum" not in node
        words = node.keys() & {"pattern", "format", "allOf", "minLength", "maxLength"}
        if texts and left and len(words) > 1:
            left -= 1
            if is_empty(node):
                node["enum"] = []


def _is_scalar(schema: Any) -> bool:
    """Return whether the schema clearly allows no object or list."""
    if not isinstance(schema, dict):
        return schema is False
    types = schema.get("type", ())
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    if values:
        return not any(isinstance(value, (dict, list)) for value in values)
    return bool(types) and {types} <= _SCALARS if isinstance(types, str) else False


def _check_value(path: Path, value: Any) -> None:
    """Check that the grammar can express a value of ``const`` or ``enum`` exactly."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, (dict, list)):
            stack += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and any(_is_control(character) for character in value):
            raise SchemaError("control characters in const and enum are not supported", path)
        elif _is_number(value) and abs(value) > MAX_EXACT:
            raise SchemaError("const and enum are not supported for numbers beyond 2**53", path)


def _is_control(character: str) -> bool:
    """Return whether a character needs an escape such as ``\\u0001``."""
    return character == "\x7f" or (character < " " and character not in "\b\t\n\f\r")


def _convert_patterns(path: Path, node: Json) -> None:
    try:
        if "pattern" in node:
            node["pattern"] = rust_pattern(node["pattern"])
        if "patternProperties" in node:
            named = node["patternProperties"]
            node["patternProperties"] = {rust_pattern(name): named[name] for name in named}
    except PatternError as ex:
        raise SchemaError(f"a pattern {ex}", path) from None


def _adapt(path: Path, node: Json) -> None:
    """Rewrite keywords that the compiler interprets differently, keeping their meaning."""
    node.pop("$schema", None)  # The compiler would ignore keywords unknown to that draft.
    if not isinstance(node.get("items"), list):
        node.pop("additionalItems", None)  # The compiler would ignore prefixItems beside it.
    kind = node.get("format")
    if kind in EXACT:
        node["allOf"] = [*node.get("allOf", ()), {"pattern": f"^(?:{EXACT[kind]})$"}]
    if kind is not None and (kind in EXACT or kind not in PATTERNS):
        del node["format"]  # Formats that the standard does not define are annotations.
    for keyword in _COUNTS:
        if keyword in node:
            node[keyword] = int(node[keyword])
    for keyword in (*_LOWER, *_UPPER):
        if keyword in node and abs(node[keyword]) > MAX_EXACT:
            node[keyword] = _inwards(node[keyword], keyword in _LOWER)
    _close_bounds(node)


def _inwards(bound: float, lower: bool) -> float:
    """Return the nearest bound that the compiler can represent and that accepts no more values."""
    bound = max(bound, -MAX_BOUND) if lower else min(bound, MAX_BOUND)
    near = float(bound)
    if (near < bound) if lower else (near > bound):
        near = math.nextafter(near, math.inf if lower else -math.inf)
    return near


def _close_bounds(node: Json) -> None:
    """Close exclusive bounds: from 9 < x < 9.5 the compiler makes 9 <= x < 9.5, while it compiles
    9.0001 <= x < 9.5 correctly."""
    for keyword, instead, others, sign in (
        ("exclusiveMinimum", "minimum", _UPPER, 1), ("exclusiveMaximum", "maximum", _LOWER, -1),
    ):  # fmt: skip
        bound = node.get(keyword, 0.5)
        limits = [node[other] for other in others if _is_number(node.get(other))]
        near = [limit for limit in limits if int(limit) == bound and limit * sign > bound * sign]
        if not near or not _is_number(bound) or bound * sign < 0:
            continue
        digits = max(-int(Decimal(repr(limit)).as_tuple().exponent) for limit in near)
        step = Decimal(sign).scaleb(-max(digits, 1) - 3)
        closed = float(Decimal(repr(node.pop(keyword))) + step)
        node[instead] = max(closed * sign, node.get(instead, closed) * sign) * sign


def _check_multiples(document: Document) -> None:
    """Limit ``multipleOf``: the compiler makes a state per remainder of the common multiple."""
    values: set[Fraction] = set()
    for path, node in document.nodes:
        value = node.get("multipleOf")
        if value is None:
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


class _Patterns:
    """Limits the patterns of one value: the compiler intersects them, which takes long for many.

    Values are told apart by the name of the property that contains them, directly or not.
    """

    def __init__(self, document: Document) -> None:
        self._of = _patterns_of_values(document)
        # By schema: its properties' names with their patterns, and the schemas next to it.
        self._named: dict[int, list[tuple[str, set[str]]]] = {}
        self._next: dict[int, list[Json]] = {}
        self._looked_at = 0
        all_named: dict[str, set[str]] = {}
        for _, node in document.nodes:
            inner = [edge for edge in document.children(node) if isinstance(edge[1], dict)]
            named = [(str(way[1]), self._of[id(c)]) for way, c in inner if way[0] == "properties"]
            self._named[id(node)] = named
            for name, patterns in named:
                all_named.setdefault(name, set()).update(patterns)
            target = document.target(node)
            leads = [target[1]] if target is not None and isinstance(target[1], dict) else []
            leads += [child for way, child in inner if way[0] not in _DEFINITIONS]
            self._next[id(node)] = leads
        self._most = max(map(len, all_named.values()), default=0)

    def check(self, path: Path, node: Json) -> None:
        """Check a schema with ``allOf``."""
        if any(word == "allOf" and isinstance(index, int) for word, index in pairwise(path)):
            return  # It was checked with the enclosing schema.
        patterns = self._of[id(node)]
        most = len(patterns)
        if most <= MAX_PATTERNS < most + self._most:
            most = max(len(patterns | own) for own in self._below(path, node))
        if most > MAX_PATTERNS:
            raise SchemaError(f"allOf combines more than {MAX_PATTERNS} patterns or formats", path)

    def _below(self, path: Path, start: Json) -> Iterable[set[str]]:
        """Return the patterns of each property name anywhere below, and an empty set."""
        found: dict[str, set[str]] = {"": set()}
        seen = {id(start)}
        stack = [start]
        while stack:
            node = stack.pop()
            self._looked_at += 1
            if self._looked_at > MAX_LOOKED_AT:
                raise SchemaError("its allOf refers to too many schemas", path)
            for name, patterns in self._named[id(node)]:
                found.setdefault(name, set()).update(patterns)
            new = [child for child in self._next[id(node)] if id(child) not in seen]
            seen.update(map(id, new))
            stack += new
        return found.values()


def _patterns_of_values(document: Document) -> dict[int, set[str]]:
    """Return, by schema, the patterns and formats that may apply together to a value.

    Sets that exceed the limit are incomplete. Patterns of properties are not included, because
    their values have separate names.
    """
    found: dict[int, set[str]] = {}
    users: dict[int, list[int]] = {}
    for _, node in document.nodes:
        found[id(node)] = {node[word] for word in ("pattern", "format") if word in node}
        for step, child in document.children(node):
            if step[0] != "properties" and step[0] not in _DEFINITIONS:
                users.setdefault(id(child), []).append(id(node))
        target = document.target(node)
        if target is not None:
            users.setdefault(id(target[1]), []).append(id(node))
    changed = [id_ for id_, own in found.items() if own]
    while changed:  # A schema returns each time its set has grown, which is a few times.
        inner = changed.pop()
        for user in users.get(inner, ()):
            if len(found[user]) <= MAX_PATTERNS and not found[inner] <= found[user]:
                found[user] |= found[inner]
                changed.append(user)
    return found


def locate(schema: Json, message: str, fault: Callable[[Json], str | None]) -> tuple[Path, str]:
    """Find the smallest subschema of ``schema`` that fails in the same way, and its message.

    The number of characters compiled limits the search, so that the result does not depend on the
    speed of the machine. The limit on processor time is for schemas made to compile slowly.

    Args:
        fault: compiles a schema; returns the error message, None if there is no error.
    """
    shared = {key: schema[key] for key in _DEFINITIONS if key in schema}
    path: Path = ()
    node = schema
    left = LOCATE_CHARACTERS
    shared_size = len(json.dumps(shared))
    deadline = time.thread_time() + _LOCATE_SECONDS
    while True:
        for step, child in children(node):
            empty = message.startswith(_UNSATISFIABLE)
            if not isinstance(child, dict):
                continue
            if empty and "$ref" not in child and not _is_needed(node, step):
                continue
            left -= shared_size + len(json.dumps(child))
            if left < 0 or time.thread_time() > deadline:
                return path, message
            found = fault({**shared, **child})
            if found is not None and (
                found.startswith(_UNSATISFIABLE) if empty else found == message
            ):
                path, node, message = path + step, child, found
                break
        else:
            return path, message


def _is_needed(node: Json, step: Path) -> bool:
    """Return whether the enclosing schema is unsatisfiable if this one is."""
    if step[0] == "properties":
        return step[1] in node.get("required", ())
    if step[0] in ("items", "prefixItems"):
        return bool(node.get("minItems"))
    return step[0] in ("allOf", "anyOf", "oneOf")
