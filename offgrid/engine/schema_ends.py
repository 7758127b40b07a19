"""Which schemas some finite value satisfies.

A schema that needs itself (a node whose next node is required) compiles well, and a model that
enters it never gets out. What ends is found as a least fixpoint: nothing is known to end at first,
a schema ends once all that it cannot do without does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from offgrid.engine.schema_tree import Document, Json, Path, SchemaError

MAX_STEPS = 60_000
"""Schemas that are looked at for this; far more than schemas have that people write."""
_PLAIN = {"null", "boolean", "number", "integer", "string"}
_TYPES = {*_PLAIN, "array", "object"}
Place = tuple[Path, Any]


def forbid_endless(document: Document) -> None:
    """Mark what no value satisfies as allowing nothing, so that no answer goes there.

    Raises:
        SchemaError: no value satisfies the whole; with the place that is to blame.
    """
    _Ends(document).mark()


class _Ends:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._ending: set[int] = set()
        self._waiting: dict[int, list[tuple[Path, Json]]] = {}
        self._steps = 0

    def mark(self) -> None:
        queue = list(self._document.nodes)  # inner ones are at the end, and come first
        while queue:
            path, node = queue.pop()
            if id(node) in self._ending:
                continue
            missing = self._missing(path, node)
            if not missing:
                self._ending.add(id(node))
                queue += self._waiting.pop(id(node), ())
            for _, other in missing:
                if isinstance(other, dict):
                    self._waiting.setdefault(id(other), []).append((path, node))
        root = self._document.root
        if id(root) not in self._ending:
            raise self._blame(root)
        for _, node in self._document.nodes:
            if id(node) not in self._ending:
                # Not `false` in its place: pointers may lead through it.
                kept = {key: value for key, value in node.items() if key != "$ref"}
                node.clear()
                node.update({"enum": [], **kept})

    def _blame(self, node: Json) -> SchemaError:
        """Follow what is missing down to where there is nothing, or to where it began."""
        path: Path = ()
        seen: set[int] = set()
        while isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            missing = self._missing(path, node)
            path, other = missing[0]
            if other is node or other is None:
                break
            node = other
        if isinstance(node, dict) and id(node) in seen and other is not None:
            return SchemaError("no value can satisfy it: it needs itself without end", path)
        return SchemaError("unsatisfiable: no value can satisfy it, and it is needed", path)

    def _ends(self, schema: Any) -> bool:
        return schema is not False and (not isinstance(schema, dict) or id(schema) in self._ending)

    def _missing(self, path: Path, node: Json) -> list[Place]:
        """What is not known to end and would have to; nothing if the schema ends.

        The first entry is to blame, None in the place of a schema stands for the node itself.
        """
        parts = self._parts(path, node)
        missing = self._needed(path, parts)
        if missing:
            return missing
        for at, part in parts:
            for keyword in ("anyOf", "oneOf"):
                if keyword not in part:
                    continue
                failed: list[Place] = []
                for index, branch in enumerate(part[keyword]):
                    place = (*at, keyword, index)
                    lacks = [(place, branch)]
                    if self._ends(branch):
                        more = self._parts(place, branch) if isinstance(branch, dict) else []
                        lacks = self._needed(place, [*parts, *more])
                    if not lacks:
                        break
                    failed += lacks
                else:
                    return failed or [((*at, keyword), None)]
        return []

    def _parts(self, path: Path, node: Json) -> list[tuple[Path, Json]]:
        """A schema and all that hold for the same value: references and ``allOf``, followed."""
        parts: list[tuple[Path, Json]] = []
        open_, done = set(), set()
        stack: list[tuple[Path, Any, bool]] = [(path, node, False)]
        while stack:
            at, current, leaving = stack.pop()
            if leaving:
                open_.discard(id(current))
                done.add(id(current))
                continue
            if id(current) in open_:
                raise SchemaError("it refers to itself, and to nothing else", at)
            if current is False:
                parts.append((at, {"enum": []}))
            if not isinstance(current, dict) or id(current) in done:
                continue
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise SchemaError("its references lead too far")
            open_.add(id(current))
            parts.append((at, current))
            stack.append((at, current, True))
            if "$ref" in current:
                stack.append((*self._document.resolve(current["$ref"], at), False))
            for index, inner in enumerate(current.get("allOf", ())):
                stack.append(((*at, "allOf", index), inner, False))
        return parts

    def _needed(self, path: Path, parts: list[tuple[Path, Json]]) -> list[Place]:
        """What is missing of a value that all parts hold for, their alternatives left aside."""
        types = set(_TYPES)
        listed = False
        for at, part in parts:
            if part.get("enum") == []:
                return [(at, None)]
            listed = listed or "enum" in part or "const" in part
            if "type" in part:
                named = part["type"]
                own = {named} if isinstance(named, str) else set(named)
                types &= own | ({"integer"} if "number" in own else set())
        if listed or types & _PLAIN:
            return []
        missing: list[Place] = []
        for kind, needed in (("array", _items), ("object", _properties)):
            if kind in types:
                lacks = [place for place in needed(parts) if not self._ends(place[1])]
                if not lacks:
                    return []
                missing += lacks
        return missing or [(path, None)]


def _items(parts: list[tuple[Path, Json]]) -> Iterator[Place]:
    """The schemas of items that an array cannot be without."""
    count = max(part.get("minItems", 0) for _, part in parts)
    for at, part in parts:
        items = part.get("items", True)
        first = items if isinstance(items, list) else part.get("prefixItems", [])
        rest = part.get("additionalItems", True) if isinstance(items, list) else items
        keyword = "items" if isinstance(items, list) else "prefixItems"
        for index, schema in enumerate(first[:count]):
            yield (*at, keyword, index), schema
        if count > len(first):
            yield (*at, "additionalItems" if isinstance(items, list) else "items"), rest


def _properties(parts: list[tuple[Path, Json]]) -> Iterator[Place]:
    """The schemas of properties that an object cannot be without."""
    for name in dict.fromkeys(name for _, part in parts for name in part.get("required", ())):
        for at, part in parts:
            if name in part.get("properties", ()):
                yield (*at, "properties", name), part["properties"][name]
            elif not part.get("patternProperties"):
                yield (*at, "additionalProperties"), part.get("additionalProperties", True)
