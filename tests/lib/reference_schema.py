"""JSON schemas checked by definition: slow and simple."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_PLAIN = {"null", "boolean", "number", "integer", "string"}
_TYPES = {*_PLAIN, "array", "object"}


class Naive:
    """A schema with references ``#`` and ``#/$defs/<name>`` only.

    It must not refer to a part of itself that applies to the same value.
    """

    def __init__(self, root: Json) -> None:
        self.root = root

    def target(self, node: Json) -> Any:
        name = node["$ref"]
        return self.root if name == "#" else self.root["$defs"][name.removeprefix("#/$defs/")]

    def inside(self, schema: Any) -> Iterator[tuple[str, str, Any]]:
        """The direct subschemas of a schema: keyword, name (if any), subschema."""
        if not isinstance(schema, dict):
            return
        for keyword in ("properties", "patternProperties", "$defs"):
            yield from ((keyword, name, child) for name, child in schema.get(keyword, {}).items())
        for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
            yield from ((keyword, "", child) for child in schema.get(keyword, ()))
        items = schema.get("items", ())
        yield from (
            ("items", "", child) for child in (items if isinstance(items, list) else [items])
        )
        for keyword in ("additionalProperties", "additionalItems"):
            yield keyword, "", schema.get(keyword)

    def all(self) -> list[Json]:
        """Every schema that is an object."""
        found: list[Json] = []
        stack: list[Any] = [self.root]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                found.append(node)
                stack += [child for _, _, child in self.inside(node)]
        return found

    def ending(self) -> list[Json]:
        """The schemas that a finite value satisfies: repeat from none until no more are found."""
        nodes, known, size = self.all(), [], -1
        while len(known) > size:
            size, ids = len(known), {id(node) for node in known}
            known = [node for node in nodes if self._ends(node, ids)]
        return known

    def _ends(self, node: Json, known: set[int]) -> bool:
        parts = self.parts(node)
        return self._has_value(parts, known) and all(
            any(
                self._is_known(branch, known)
                and self._has_value([*parts, *self.parts(branch)], known)
                for branch in part[keyword]
            )
            for part in parts
            for keyword in ("anyOf", "oneOf")
            if keyword in part
        )

    def parts(self, schema: Any) -> list[Json]:
        """All schemas that apply to the same value."""
        if not isinstance(schema, dict):
            return [{}] if schema else [{"enum": []}]
        found = [schema]
        if "$ref" in schema:
            found += self.parts(self.target(schema))
        for inner in schema.get("allOf", ()):
            found += self.parts(inner)
        return found

    def _is_known(self, schema: Any, known: set[int]) -> bool:
        return id(schema) in known if isinstance(schema, dict) else bool(schema)

    def _has_value(self, parts: list[Json], known: set[int]) -> bool:
        """Whether one value satisfies all parts, ignoring their alternatives."""
        types = set(_TYPES)
        for part in parts:
            own = part.get("type", list(_TYPES))
            own = {own} if isinstance(own, str) else set(own)
            types &= own | ({"integer"} if "number" in own else set())
        if any(part.get("enum") == [] for part in parts):
            return False
        listed = any("enum" in part or "const" in part for part in parts)
        count = max((part.get("minItems", 0) for part in parts), default=0)
        names = {name for part in parts for name in part.get("required", ())}
        items = all(
            self._is_known(self._item(part, i), known) for part in parts for i in range(count)
        )
        properties = all(
            self._is_known(self._property(part, name), known) for part in parts for name in names
        )
        return bool(
            listed or types & _PLAIN or ("array" in types and items)
            or ("object" in types and properties)
        )  # fmt: skip

    def _item(self, part: Json, index: int) -> Any:
        items = part.get("items", True)
        first, rest = part.get("prefixItems", []), items
        if isinstance(items, list):
            first, rest = items, part.get("additionalItems", True)
        return first[index] if index < len(first) else rest

    def _property(self, part: Json, name: str) -> Any:
        if name in part.get("properties", {}):
            return part["properties"][name]
        return bool(part.get("patternProperties")) or part.get("additionalProperties", True)

    def most_patterns(self) -> int:
        """The largest number of patterns and formats that an ``allOf`` applies to one value."""
        return max((self._patterns(node) for node in self.all() if "allOf" in node), default=0)

    def _patterns(self, start: Json) -> int:
        own: dict[str | None, set[str]] = {None: set()}
        seen: set[tuple[int, str | None]] = set()
        stack: list[tuple[Any, str | None]] = [(start, None)]
        while stack:
            node, name = stack.pop()
            if not isinstance(node, dict) or (id(node), name) in seen:
                continue
            seen.add((id(node), name))
            patterns = own.setdefault(name, set())
            patterns |= {node[word] for word in ("pattern", "format") if word in node}
            for keyword, property_name, child in self.inside(node):
                if keyword != "$defs":
                    stack.append((child, property_name if keyword == "properties" else name))
            if "$ref" in node:
                stack.append((self.target(node), name))
        return max(len(own[None] | patterns) for patterns in own.values())
