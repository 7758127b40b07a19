"""Removes from JSON schemas what asks for nothing, and rewrites what has a simpler form.

Many keywords that the compiler does not know stand in schemas with a value that every instance
satisfies, because a library writes them always: zod's ``propertyNames: {"type": "string"}``,
``unevaluatedProperties: true``, an ``if`` without ``then``. They are removed. Some others say what
supported keywords can say as well, for example a list of names in ``propertyNames``. What is left
after that is refused by the checks of :mod:`offgrid.grammar.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from offgrid.grammar.document import Document, Json, Path, SchemaError
from offgrid.grammar.lookahead import (
    found_in,
    has_look_ahead,
    one_pattern,
    patterns_without_look_ahead,
)
from offgrid.grammar.regular import Unwritable

_OBJECT_WORDS = frozenset({
    "properties", "required", "additionalProperties", "patternProperties", "minProperties",
    "maxProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties",
})  # fmt: skip
_ARRAY_WORDS = frozenset({
    "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains",
    "minContains", "maxContains", "unevaluatedItems",
})  # fmt: skip
_STRING_WORDS = frozenset({"minLength", "maxLength", "pattern", "format"})
_NUMBER_WORDS = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
})  # fmt: skip
_VALUE_WORDS = frozenset({
    "type", "enum", "const", "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf",
    "not", "if", "then", "else",
})  # fmt: skip
_ASSERTIONS = _OBJECT_WORDS | _ARRAY_WORDS | _STRING_WORDS | _NUMBER_WORDS | _VALUE_WORDS
_NULLABLE = _ASSERTIONS - {"const"} | {
    "$defs", "definitions", "$id", "$anchor", "$schema", "$dynamicAnchor", "$recursiveAnchor",
}  # fmt: skip
"""Keywords that ``null`` leaves out. ``const`` and ``default`` may have it as their value."""
_REWRITTEN = frozenset({
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicAnchor", "$recursiveAnchor", "minProperties",
    "maxProperties", "pattern", "patternProperties",
})  # fmt: skip
"""Keywords of which something below may be removed or rewritten."""
_APPLICATORS = frozenset({
    "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "then", "else",
    "dependentSchemas", "dependencies", "not",
})  # fmt: skip
"""Keywords whose schemas may evaluate properties or items, which ``unevaluated...`` then skips."""
_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_ONLY_ARRAYS = (
    "contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems",
)  # fmt: skip
_ONLY_OBJECTS = (
    "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties",
)  # fmt: skip
MAX_LOOKING_AHEAD = 20
"""Different patterns with look-aheads in a schema: each may take a tenth of a second."""
_MAX_FOLLOWED = 20
"""References and alternatives that are followed from one ``propertyNames``."""
MAX_NAMES = 50_000
"""Values of lists that are read for all ``propertyNames``: many of them may refer to one long list,
of which each gets a copy."""
MAX_NAMING = 50
"""Different patterns of ``propertyNames`` that are compared with the names of properties."""


@dataclass(frozen=True)
class _Texts:
    """Some texts: those of a list, those in which a pattern is found, or with neither, texts that
    cannot be told."""

    listed: tuple[str, ...] | None = None
    pattern: str | None = None


_UNKNOWN = _Texts()
_NO_TEXT = _Texts(())


def simplify(document: Document) -> bool:
    """Simplify all schemas of a document in place.

    Returns:
        Whether anything changed, so that the document must be read again.

    Raises:
        SchemaError: a pattern has a look-ahead that cannot be written without one.
    """
    simplifier = _Simplifier(document)
    for path, node in reversed(document.nodes):  # inner schemas come before outer ones
        odd = None in node.values() or node.get("required") is False
        if odd or not _REWRITTEN.isdisjoint(node):
            simplifier.simplify(path, node)
    return simplifier.changed


class _Simplifier:
    """Simplifies the schemas of a document, inner ones first.

    Attributes:
        changed: whether any schema has changed.
    """

    def __init__(self, document: Document) -> None:
        self.changed = False
        self._document = document
        words = {word for _, node in document.nodes for word in node}
        self._dynamic = "$dynamicRef" in words
        self._recursive = "$recursiveRef" in words
        self._looking: set[str] = set()
        self._names = 0
        self._naming: dict[str, Callable[[str], bool]] = {}
        self._all: dict[int, bool] = {}
        self._none: dict[int, bool] = {}

    def simplify(self, path: Path, node: Json) -> None:
        before = {**node}
        for keyword in [key for key, value in before.items() if value is None]:
            if keyword in _NULLABLE:
                del node[keyword]
        if node.get("required") is False:  # draft 3: this property is optional
            del node["required"]
        alone = _APPLICATORS.isdisjoint(node)  # one that is dropped below evaluates too
        types = _types(node)
        _drop(node, () if "array" in types else _ONLY_ARRAYS)
        _drop(node, () if "object" in types else _ONLY_OBJECTS)
        self._anchors(node)
        self._conditions(node)
        self._contained(node)
        self._dependencies(node, types)
        self._unevaluated(node, alone)  # before additionalProperties says more than the client did
        self._property_names(path, node)
        self._counts(node)
        try:
            self._look_aheads(node)
        except Unwritable as ex:
            raise SchemaError(f"a pattern {ex}", path) from None
        except RecursionError:
            raise SchemaError("a pattern is too long for its look-ahead", path) from None
        same = before.keys() == node.keys() and all(node[key] is before[key] for key in node)
        self.changed = self.changed or not same

    def _anchors(self, node: Json) -> None:
        """Without references that depend on the way to a schema, its anchors are plain ones."""
        if not self._dynamic and isinstance(node.get("$dynamicAnchor"), str):
            node.setdefault("$anchor", node.pop("$dynamicAnchor"))
        if not self._recursive or node.get("$recursiveAnchor") is False:
            node.pop("$recursiveAnchor", None)

    def _conditions(self, node: Json) -> None:
        if "not" in node:
            if self._allows_all(node["not"]):
                node["enum"] = []  # nothing satisfies it: zod's never()
                del node["not"]
            elif self._allows_none(node["not"]):
                del node["not"]
        if "if" not in node:
            _drop(node, ("then", "else"))
            return
        branches = {word: node.get(word, True) for word in ("then", "else")}
        if all(map(self._allows_all, branches.values())):
            _drop(node, ("if", "then", "else"))
        for word, decides in (("then", self._allows_all), ("else", self._allows_none)):
            if "if" in node and decides(node["if"]) and _also(node, branches[word]):
                _drop(node, ("if", "then", "else"))

    def _contained(self, node: Json) -> None:
        """Rewrite ``contains`` if it counts all items, and drop it if it asks for none."""
        if node.get("uniqueItems") is False or (
            node.get("uniqueItems") is True and _count(node, "maxItems", 2) < 2
        ):
            del node["uniqueItems"]
        words = ("contains", "minContains", "maxContains")
        if "contains" not in node:
            _drop(node, words)
            return
        wanted, items = node["contains"], node.get("items")
        low, high = _count(node, "minContains", 1), _count(node, "maxContains", -1)
        same = isinstance(items, dict) and "prefixItems" not in node and items == wanted
        limits = [node[word] for word in (*words[1:], "minItems", "maxItems") if word in node]
        if any(_count({"": limit}, "", 0) < 0 for limit in limits):
            return  # the schema is refused
        # It evaluates the items that satisfy it, which unevaluatedItems then skips.
        if "unevaluatedItems" in node and self._allows_all(wanted):
            del node["unevaluatedItems"]
        if same or self._allows_all(wanted):
            if low:
                node["minItems"] = max(low, _count(node, "minItems", 0))
            if high >= 0:
                node["maxItems"] = min(high, _count(node, "maxItems", high))
            _drop(node, words)
        elif low == 0 and (
            self._allows_none(wanted) or (high < 0 and "unevaluatedItems" not in node)
        ):
            _drop(node, words)

    def _dependencies(self, node: Json, types: set[str]) -> None:
        """Drop what depends on properties that cannot be there or that asks for nothing, and
        rewrite what depends on required ones."""
        for word in ("dependentRequired", "dependentSchemas", "dependencies"):
            found = node.get(word)
            required = _names_of(node.get("required", []))
            if not isinstance(found, dict) or required is None:
                continue
            kept: Json = {}
            for name, wanted in found.items():
                more = _names_of(wanted) if word != "dependentSchemas" else None
                if more is not None:
                    if {*more} <= {name, *required} or not self._may_have(node, name):
                        continue
                    if name in required:
                        required = [*required, *(one for one in more if one not in required)]
                        node["required"] = required
                        continue
                elif word != "dependentRequired":
                    if self._allows_all(wanted) or not self._may_have(node, name):
                        continue
                    if name in required and types == {"object"} and _also(node, wanted):
                        continue
                kept[name] = wanted
            if not kept:
                del node[word]
            elif len(kept) < len(found):
                node[word] = kept

    def _may_have(self, node: Json, name: str) -> bool:
        """Return whether a schema's objects can have a property."""
        properties = node.get("properties")
        if isinstance(properties, dict) and name in properties:
            return not self._allows_none(properties[name])
        others = node.get("additionalProperties", True)
        return bool(node.get("patternProperties")) or not self._allows_none(others)

    def _counts(self, node: Json) -> None:
        """Drop limits of the number of properties that the named properties imply."""
        required = _names_of(node.get("required", []))
        if required is not None and 0 <= _count(node, "minProperties", -1) <= len({*required}):
            del node["minProperties"]
        most = _count(node, "maxProperties", -1)
        closed = self._allows_none(node.get("additionalProperties", True))
        properties = node.get("properties", {})
        few = isinstance(properties, dict) and len(properties) <= most
        if closed and few and not node.get("patternProperties"):
            del node["maxProperties"]

    def _unevaluated(self, node: Json, alone: bool) -> None:
        """Rewrite ``unevaluated...`` where no other schema evaluates properties or items.

        Args:
            alone: whether no keyword applies another schema to the same value.
        """
        if "unevaluatedProperties" in node:
            others = node["unevaluatedProperties"]
            if "additionalProperties" not in node:
                if alone:
                    node["additionalProperties"] = others  # true: the client wants it open
                elif not self._allows_all(others):
                    return
            del node["unevaluatedProperties"]
        if "unevaluatedItems" in node:
            others, items = node["unevaluatedItems"], node.get("items")
            rest = "additionalItems" if isinstance(items, list) else "items"
            if not (self._allows_all(others) or rest in node):
                if not alone or "contains" in node:
                    return
                node[rest] = others
            del node["unevaluatedItems"]

    # --- names of properties ------------------------------------------------------------------

    def _property_names(self, path: Path, node: Json) -> None:
        """Rewrite ``propertyNames`` with the keywords that name properties."""
        own = node.get("properties", {})
        if "propertyNames" not in node or not isinstance(own, dict):
            return
        if "unevaluatedProperties" in node:
            return  # the schema is refused
        texts = self._texts(node["propertyNames"], [_MAX_FOLLOWED])
        if self._names > MAX_NAMES:
            raise SchemaError(f"all propertyNames together list more than {MAX_NAMES} names", path)
        if texts is None:
            del node["propertyNames"]
        elif texts is _UNKNOWN or node.get("patternProperties"):
            return  # it stays, and the schema is refused
        elif texts.listed is not None:
            _list_names(path, node, own, texts.listed)
        elif texts.pattern is not None:
            try:
                allowed = self._allowed(path, texts.pattern, own)
                pattern = self._one_pattern(texts.pattern)
            except (Unwritable, RecursionError):
                return
            if own:
                fitting = zip(own.items(), allowed, strict=True)
                node["properties"] = {n: value if fits else False for (n, value), fits in fitting}
            others = node.get("additionalProperties", True)
            if others is not False:
                node["patternProperties"] = {pattern: others}
            node["additionalProperties"] = False
            del node["propertyNames"]

    def _allowed(self, path: Path, pattern: str, names: Iterable[str]) -> list[bool]:
        """Return for each name whether a pattern is found in it."""
        if not names:
            return []
        if pattern not in self._naming:
            if len(self._naming) == MAX_NAMING:
                raise SchemaError(
                    f"propertyNames has the {MAX_NAMING + 1}st pattern beside properties", path
                )
            self._naming[pattern] = found_in(pattern)
        return [*map(self._naming[pattern], names)]

    def _look_aheads(self, node: Json) -> None:
        """Write patterns that begin with look-aheads as patterns without them."""
        pattern = node.get("pattern")
        every = node.get("allOf", [])
        if isinstance(pattern, str) and has_look_ahead(pattern) and isinstance(every, list):
            self._count_pattern(pattern)
            node["pattern"], *more = patterns_without_look_ahead(pattern)
            if more:
                node["allOf"] = [*every, *({"pattern": one} for one in more)]
        named = node.get("patternProperties")
        if isinstance(named, dict) and any(map(has_look_ahead, named)):
            written = {self._one_pattern(name): value for name, value in named.items()}
            if len(written) < len(named):
                raise Unwritable("for names is there twice")
            node["patternProperties"] = written

    def _one_pattern(self, pattern: str) -> str:
        """Return a pattern without look-ahead."""
        if not has_look_ahead(pattern):
            return pattern
        self._count_pattern(pattern)
        return one_pattern(pattern)

    def _count_pattern(self, pattern: str) -> None:
        self._looking.add(pattern)
        if len(self._looking) > MAX_LOOKING_AHEAD:
            raise Unwritable(f"with a look-ahead is the {MAX_LOOKING_AHEAD + 1}st of the schema")

    def _texts(self, schema: Any, left: list[int]) -> _Texts | None:
        """Return the texts that a schema allows, None for all.

        Args:
            left: how many more schemas may be looked at; counted down.
        """
        left[0] -= 1
        if isinstance(schema, bool):
            return None if schema else _NO_TEXT
        if left[0] < 0 or not isinstance(schema, dict):
            return _UNKNOWN
        for listed in map(schema.get, ("enum", "anyOf", "oneOf")):
            self._names += len(listed) if isinstance(listed, list) else 0
        if self._names > MAX_NAMES:
            return _UNKNOWN
        if "string" not in _types(schema):
            return _NO_TEXT
        words = {
            word for word, value in schema.items()
            if word in _STRING_WORDS | _VALUE_WORDS and not self._is_vacuous(word, value)
        } - {"type"}  # fmt: skip
        if not words:
            return None
        word = min(words)
        value = schema[word]
        if words == {"$ref"}:
            return self._texts(self._document.resolve(value, ())[1], left)
        if words == {"const"}:
            return _Texts((value,)) if isinstance(value, str) else _NO_TEXT
        if words == {"enum"} and isinstance(value, list):
            return _Texts(tuple(text for text in value if isinstance(text, str)))
        if words in ({"anyOf"}, {"oneOf"}) and isinstance(value, list):
            branches = [self._texts(branch, left) for branch in value]
            lists = [texts.listed for texts in branches if texts and texts.listed is not None]
            if len(lists) < len(branches):
                return _UNKNOWN
            united = [text for listed in lists for text in listed]
            repeated = len({*united}) < len(united)
            return _UNKNOWN if word == "oneOf" and repeated else _Texts((*dict.fromkeys(united),))
        if words == {"pattern"} and isinstance(value, str):
            return _Texts(pattern=value)
        low, high = _count(schema, "minLength", 0), _count(schema, "maxLength", -1)
        if words <= {"minLength", "maxLength"} and low >= 0 and (
            high >= low or "maxLength" not in schema
        ):  # fmt: skip
            return _Texts(pattern=f"^[^]{{{low},{high if high >= 0 else ''}}}$")
        return _UNKNOWN

    # --- what schemas allow -------------------------------------------------------------------

    def _allows_all(self, schema: Any) -> bool:
        """Return whether every value certainly satisfies a schema."""
        if not isinstance(schema, dict):
            return schema is True
        found = self._all.get(id(schema))
        if found is None:
            found = all(
                self._is_vacuous(word, value)
                for word, value in schema.items()
                if word in _ASSERTIONS
            )
            self._all[id(schema)] = found
        return found

    def _allows_none(self, schema: Any) -> bool:
        """Return whether certainly no value satisfies a schema."""
        if not isinstance(schema, dict):
            return schema is False
        found = self._none.get(id(schema))
        if found is None:
            every, some = schema.get("allOf"), schema.get("anyOf")
            found = (
                schema.get("enum") == []
                or ("not" in schema and self._allows_all(schema["not"]))
                or (isinstance(every, list) and any(map(self._allows_none, every)))
                or (isinstance(some, list) and all(map(self._allows_none, some)))
            )
            self._none[id(schema)] = found
        return found

    def _is_vacuous(self, word: str, value: Any) -> bool:
        """Return whether every value certainly satisfies a keyword, whatever is beside it."""
        if value is None:
            return word != "const"
        if word in ("minLength", "minItems", "minProperties"):
            return bool(value == 0)
        if word in ("required", "allOf", "prefixItems"):
            return isinstance(value, list) and all(map(self._allows_all, value))
        if word in ("properties", "patternProperties", "dependentSchemas"):
            return isinstance(value, dict) and all(map(self._allows_all, value.values()))
        if word in ("additionalProperties", "additionalItems", "items", "propertyNames",
                    "unevaluatedProperties", "unevaluatedItems"):  # fmt: skip
            return self._allows_all(value)
        if word == "anyOf":
            return isinstance(value, list) and any(map(self._allows_all, value))
        if word == "not":
            return self._allows_none(value)
        if word == "type":
            return _types({"type": value}) == _TYPES
        if word in ("uniqueItems", "exclusiveMinimum", "exclusiveMaximum"):
            return value is False
        return word == "pattern" and value == ""


def _types(node: Json) -> set[str]:
    """Return the types that a schema's keywords ``type``, ``enum`` and ``const`` leave."""
    named = node.get("type")
    names = [named] if isinstance(named, str) else named
    types = {*_TYPES}
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        types &= {"number" if name == "integer" else name for name in names}
    values = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(values, list):
        types &= {_type_of(value) for value in values}
    return types


def _type_of(value: Any) -> str:
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "boolean"), ((int, float), "number"), (str, "string"), (list, "array"),
        (dict, "object"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _count(node: Json, word: str, default: int) -> int:
    """Return a keyword that counts, ``default`` if it is absent, -1 if it is no count."""
    value = node.get(word, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        return -1
    return int(value)


def _names_of(value: Any) -> list[str] | None:
    """Return a list of names; None for any other value."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    return None


def _drop(node: Json, words: tuple[str, ...]) -> None:
    for word in words:
        node.pop(word, None)


def _also(node: Json, schema: Any) -> bool:
    """Make a schema apply to the same values; return False if ``allOf`` is malformed."""
    every = node.get("allOf", [])
    if not isinstance(every, list):
        return False
    if schema is not True:
        node["allOf"] = [*every, schema]
    return True


def _list_names(path: Path, node: Json, own: Json, names: tuple[str, ...]) -> None:
    """Allow only listed names: each gets the schema of ``additionalProperties``."""
    others = node.get("additionalProperties", True)
    allowed = {*names}
    properties = {name: value if name in allowed else False for name, value in own.items()}
    pointer = ""
    for name in names:
        if name in properties or others is False:
            continue
        if not pointer or isinstance(others, bool):
            properties[name] = others
            pointer = "#" + "".join(f"/{_step(step)}" for step in (*path, "properties", name))
        else:
            properties[name] = {"$ref": pointer}  # a schema stands at one place only
    node["properties"] = properties
    node["additionalProperties"] = False
    del node["propertyNames"]


def _step(step: str | int) -> str:
    return quote(str(step).replace("~", "~0").replace("/", "~1"), safe="~")
