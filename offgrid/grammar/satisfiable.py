"""Finds the schemas that some finite value satisfies.

A schema that requires itself (a node whose next node is required) compiles well, but a model that
enters it never gets out. The satisfiable schemas are found as a least fixpoint: at first no schema
is known to end, and a schema ends once everything that it requires ends.

Each schema is read once into :class:`_Facts`, and all schemas that apply to one value are collected
once into :class:`_Whole`. Checking a schema again takes a few operations on sets of names, which
are bits of integers, however many properties it has. A schema that does not end yet waits for one
other schema at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offgrid.grammar.document import Document, Json, Path, SchemaError

MAX_PARTS = 60_000
"""Schemas that apply to the same value, summed over all schemas; far more than people write."""
MAX_STEPS = 300_000
"""Parts and alternatives that are visited before the search gives up."""
_ARRAY, _OBJECT = 1, 2
_PLAIN = {"null": 4, "boolean": 8, "number": 16, "integer": 32, "string": 64}
_TYPES = {**_PLAIN, "array": _ARRAY, "object": _OBJECT}
_ANY_TYPE = sum(_TYPES.values())
_ANY_PLAIN = sum(_PLAIN.values())
_NOTHING: Json = {"enum": []}
Place = tuple[Path, Any]
"""A schema and its path; None as the schema means the enclosing schema."""


def forbid_endless(document: Document) -> int:
    """Add ``"enum": []`` to each unsatisfiable subschema, so that no answer enters it.

    Returns:
        The number of steps taken: see :data:`MAX_STEPS`.

    Raises:
        SchemaError: no value satisfies the whole schema (the error names the place responsible), or
            the schemas refer to each other too much.
    """
    ends = _Ends(document)
    ends.mark()
    return ends.steps


class _Facts:
    """The requirements of one schema alone, without its references and ``allOf``.

    Attributes:
        types: types of its values, as bits.
        listed: whether it lists values.
        count: number of items it requires.
        limit: number of items that an array can have, given the schemas known to end so far.
        required: the names it requires, as bits.
    """

    def __init__(self, path: Path, node: Json, names: dict[str, int], ends: _EndsOf) -> None:
        self.path = path
        self.node = node
        self._ends = ends
        self.types = _types(node)
        self.listed = "enum" in node or "const" in node
        self.empty = node.get("enum") == []
        self.count = node.get("minItems", 0)
        self.required = _bits(names, node.get("required", ()))
        items = node.get("items", True)
        self._is_tuple = isinstance(items, list)
        self._first: list[Any] = items if self._is_tuple else node.get("prefixItems", [])
        self._rest: Any = node.get("additionalItems", True) if self._is_tuple else items
        self._ending = 0
        self.limit = 0.0
        self.item_ended()
        properties: Json = node.get("properties", {})
        self._others: Any = node.get("additionalProperties", True)
        if node.get("patternProperties"):
            self._others = True  # Names are not matched against the patterns.
        self._named = _bits(names, (name for name in properties if not ends(properties[name])))
        self._unnamed = 0
        if not ends(self._others):
            self._unnamed = ((1 << len(names)) - 1) & ~_bits(names, properties)

    def children(self) -> list[tuple[Any, str | None]]:
        """Return the schemas of the items and properties, those of properties with their names."""
        named = self.node.get("properties", {})
        return [
            *((child, None) for child in (*self._first, self._rest)),
            *((child, name) for name, child in named.items()),
            (self._others, None),
        ]

    @property
    def lacking(self) -> int:
        """The names that an object cannot have, given the schemas known to end so far."""
        return self._named | self._unnamed

    @property
    def hinders(self) -> bool:
        """Whether a subschema may prevent this schema from ending."""
        return self.limit != float("inf") or self.lacking != 0

    def item_ended(self) -> None:
        """Update the limit: an item's schema is now known to end."""
        while self._ending < len(self._first) and self._ends(self._first[self._ending]):
            self._ending += 1
        whole = self._ending == len(self._first)
        self.limit = float("inf") if whole and self._ends(self._rest) else self._ending

    def ended(self, name_bit: int) -> None:
        """Note that a subschema is now known to end: a property's, or (0) another one."""
        self._named &= ~name_bit
        if self._ends(self._others):
            self._unnamed = 0
        self.item_ended()

    def missing_item(self) -> Place:
        """Return the first item that an array cannot have."""
        if self._ending < len(self._first):
            keyword = "items" if self._is_tuple else "prefixItems"
            return (*self.path, keyword, self._ending), self._first[self._ending]
        return (*self.path, "additionalItems" if self._is_tuple else "items"), self._rest

    def missing_property(self, name: str) -> Place:
        """Return the schema that prevents a property."""
        properties = self.node.get("properties", {})
        if name in properties:
            return (*self.path, "properties", name), properties[name]
        return (*self.path, "additionalProperties"), self._others


_EndsOf = Callable[[Any], bool]


def _types(node: Json) -> int:
    if "type" not in node:
        return _ANY_TYPE
    named = [node["type"]] if isinstance(node["type"], str) else node["type"]
    types = 0
    for name in named:
        types |= _TYPES[name]
    return types | (_TYPES["integer"] if types & _TYPES["number"] else 0)


def _bits(names: dict[str, int], some: Any) -> int:
    """Return a set of names as an integer; names that no object requires do not count."""
    bits = 0
    for name in some:
        if name in names:
            bits |= 1 << names[name]
    return bits


class _Whole:
    """A schema together with all schemas that apply to the same value.

    Attributes:
        hindering: the parts that may still prevent the schema from ending.
        choices: ``anyOf`` and ``oneOf`` of all parts, each as the part and the keyword.
    """

    def __init__(self, parts: list[_Facts]) -> None:
        self.parts = parts
        self.empty = next((part for part in parts if part.empty), None)
        self.listed = any(part.listed for part in parts)
        self.types = _ANY_TYPE
        self.count = max(part.count for part in parts)
        self.required = 0
        for part in parts:
            self.types &= part.types
            self.required |= part.required
        self.hindering = [part for part in parts if part.hinders]
        self.choices = [
            (part, keyword)
            for part in parts
            for keyword in ("anyOf", "oneOf")
            if keyword in part.node
        ]


class _Ends:
    """The search. ``steps`` counts the work done."""

    def __init__(self, document: Document) -> None:
        self.steps = 0
        self._document = document
        self._ending: set[int] = set()
        self._waiting: dict[int, list[tuple[Path, Json]]] = {}
        names: dict[str, int] = {}
        for _, node in document.nodes:
            for name in node.get("required", ()):
                names.setdefault(name, len(names))
        self._bit_of = names
        self._names = list(names)
        self._facts = {
            id(node): _Facts(path, node, names, self._ends) for path, node in document.nodes
        }
        self._owners: dict[int, tuple[_Facts, str | None]] = {
            id(child): (facts, name)
            for facts in self._facts.values()
            for child, name in facts.children()
            if isinstance(child, dict)
        }
        self._part_count = 0
        self._wholes: dict[int, _Whole] = {}

    def mark(self) -> None:
        nodes = self._document.nodes
        for path, node in reversed(nodes):  # Inner schemas, at the end of the list, come first.
            self._wholes[id(node)] = _Whole(self._parts(path, node))
        queue = list(nodes)
        while queue:
            path, node = queue.pop()
            if id(node) in self._ending:
                continue
            missing = self._missing(path, node)
            if not missing:
                self._settle(node)
                queue += self._waiting.pop(id(node), ())
            for _, other in missing:
                if isinstance(other, dict):
                    self._waiting.setdefault(id(other), []).append((path, node))
        root = self._document.root
        if id(root) not in self._ending:
            raise self._blame(root)
        for _, node in nodes:
            if id(node) not in self._ending:
                # Keep the other keywords, because pointers may lead through the schema.
                kept = {key: value for key, value in node.items() if key != "$ref"}
                node.clear()
                node.update({"enum": [], **kept})

    def _settle(self, node: Json) -> None:
        """Record that a schema ends, and update the schema that contains it."""
        self._ending.add(id(node))
        facts, name = self._owners.get(id(node), (None, None))
        if facts is not None:
            facts.ended(0 if name is None else _bits(self._bit_of, (name,)))

    def _blame(self, node: Json) -> SchemaError:
        """Follow missing schemas to one that nothing satisfies, or back to where it began."""
        path: Path = ()
        seen: set[int] = set()
        other: Any = None
        while isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            missing = self._missing(path, node, exact=True)
            path, other = missing[0]
            if other is node or other is None:
                break
            node = other
        if isinstance(node, dict) and id(node) in seen and other is not None:
            return SchemaError("no value can satisfy it: it requires itself", path)
        return SchemaError("unsatisfiable: no value can satisfy it, and it is required", path)

    def _ends(self, schema: Any) -> bool:
        return schema is not False and (not isinstance(schema, dict) or id(schema) in self._ending)

    def _step(self, count: int) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            raise SchemaError("it has too many references to follow")

    def _missing(self, path: Path, node: Json, exact: bool = False) -> list[Place]:
        """Return the schemas needed that are not known to end; nothing if the schema ends.

        With ``exact``, the first entry is the schema responsible.
        """
        whole = self._wholes[id(node)]
        missing = self._needed(path, [whole], exact)
        if missing:
            return missing
        for part, keyword in whole.choices:
            failed: list[Place] = []
            for index, branch in enumerate(part.node[keyword]):
                self._step(1)
                place = (*part.path, keyword, index)
                lacks = [(place, branch)]
                if self._ends(branch):
                    more = [self._wholes[id(branch)]] if isinstance(branch, dict) else []
                    lacks = self._needed(place, [whole, *more], exact)
                if not lacks:
                    break
                failed += lacks
            else:
                return failed or [((*part.path, keyword), None)]
        return []

    def _parts(self, path: Path, node: Json) -> list[_Facts]:
        """Return a schema and all that apply to the same value through references and ``allOf``."""
        if "allOf" not in node and self._document.target(node) is None:
            return [self._facts[id(node)]]
        parts: list[_Facts] = []
        open_, done = set(), set()
        stack: list[tuple[Path, Any, bool]] = [(path, node, False)]
        while stack:
            at, current, leaving = stack.pop()
            if leaving:
                open_.discard(id(current))
                done.add(id(current))
                continue
            if id(current) in open_:
                raise SchemaError("it refers only to itself", at)
            if current is False:
                parts.append(_Facts(at, _NOTHING, {}, self._ends))
            if not isinstance(current, dict) or id(current) in done:
                continue
            self._part_count += 1
            if self._part_count > MAX_PARTS:
                raise SchemaError("it has too many references to follow")
            open_.add(id(current))
            parts.append(self._facts[id(current)])
            stack.append((at, current, True))
            target = self._document.target(current)
            if target is not None:
                stack.append((*target, False))
            for index, inner in enumerate(current.get("allOf", ())):
                stack.append(((*at, "allOf", index), inner, False))
        return parts

    def _needed(self, path: Path, wholes: list[_Whole], exact: bool) -> list[Place]:
        """Return what a value of all these parts lacks, ignoring their alternatives."""
        types, listed = _ANY_TYPE, False
        for whole in wholes:
            self._step(1 + len(whole.hindering))
            if whole.empty is not None:
                return [(whole.empty.path, None)]
            types &= whole.types
            listed = listed or whole.listed
        if listed or types & _ANY_PLAIN:
            return []
        hindering = [part for whole in wholes for part in whole.hindering]
        missing: list[Place] = []
        if types & _ARRAY:
            count = max(whole.count for whole in wholes)
            short = next((part for part in hindering if part.limit < count), None)
            if short is None:
                return []
            missing.append(short.missing_item())
        if types & _OBJECT:
            required = lacking = 0
            for whole in wholes:
                required |= whole.required
            for part in hindering:
                lacking |= part.lacking
            if not required & lacking:
                return []
            missing.append(self._missing_property(wholes, required & lacking, exact))
        return missing or [(path, None)]

    def _missing_property(self, wholes: list[_Whole], lacking: int, exact: bool) -> Place:
        """Return the first missing property, or without ``exact`` one likely to be known last."""
        name = self._names[(lacking & -lacking).bit_length() - 1]
        if exact:
            asking = (p for whole in wholes for p in whole.parts if p.required & lacking)
            names = next(asking).node["required"]
            self._step(len(names) // 16)
            name = next(name for name in names if lacking >> self._bit_of[name] & 1)
        bit = 1 << self._bit_of[name]
        parts = (part for whole in wholes for part in whole.hindering if part.lacking & bit)
        return next(parts).missing_property(name)
