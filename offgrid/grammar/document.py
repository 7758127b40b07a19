"""Finds all schemas in a JSON schema, and the targets of references."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

Path = tuple[str | int, ...]
Json = dict[str, Any]

_ONE = (
    "items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else",
    "propertyNames", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = (
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
)  # fmt: skip
_INDEX = re.compile(r"\d{1,9}")
_SHOWN = 300
"""Characters of a pointer that a message shows."""


class SchemaError(ValueError):
    """The schema cannot be enforced.

    Attributes:
        place: the beginning of a sentence with the place of the error, empty for the whole schema.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.place = "" if path is None else place(path)


def place(path: Path) -> str:
    """Return the beginning of a sentence about the schema at a path, with its JSON pointer."""
    pointer = "".join(f"/{_escape(str(step))}" for step in path)
    if len(pointer) > _SHOWN:
        pointer = pointer[:_SHOWN] + "..."
    return f"at {pointer or 'the root'}: "


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def children(node: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the direct subschemas of a schema, each with its relative path."""
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
        if isinstance(node.get(keyword), (dict, bool)):
            yield (keyword,), node[keyword]


class Document:
    """A schema with all schemas in it, including those that only references reach.

    Lookups are cached, so finding the children and the target of every schema takes time linear in
    the length of the text.

    Attributes:
        nodes: every schema that is an object, with its path; outer ones come before inner ones.
    """

    def __init__(self, schema: Json) -> None:
        self.root = schema
        self.nodes: list[tuple[Path, Json]] = []
        self._children: dict[int, list[tuple[Path, Any]]] = {}
        self._pointers: dict[str, tuple[Path, Any] | None] = {}
        self._targets: dict[int, tuple[Path, Any]] = {}
        self._anchors: dict[str, tuple[Path, Any]] = {}
        self._seen: set[int] = set()
        base = schema.get("$id")
        self._base = base.rstrip("#") if isinstance(base, str) else ""
        self._other_base: Path | None = None
        self._collect((), schema)
        at = 0
        while at < len(self.nodes):  # The list grows: references lead to further schemas.
            path, node = self.nodes[at]
            at += 1
            if node.get("$ref") is not None:
                self._collect(*self.resolve(node["$ref"], path))

    def _collect(self, path: Path, node: Any) -> None:
        stack = [(path, node)]
        while stack:
            path, node = stack.pop()
            if not isinstance(node, dict) or id(node) in self._seen:
                continue
            self._seen.add(id(node))
            self.nodes.append((path, node))
            id_ = node.get("$id")
            if path and isinstance(id_, str) and id_[:1] != "#":
                self._other_base = path
            for name in (node.get("$anchor"), node.get("$dynamicAnchor"), _fragment(id_)):
                if isinstance(name, str):
                    self._anchors[name] = (path, node)
            inner = list(children(node))
            self._children[id(node)] = inner
            stack += ((path + step, child) for step, child in reversed(inner))

    def children(self, node: Json) -> list[tuple[Path, Any]]:
        """Return the direct subschemas of one of :attr:`nodes`, each with its relative path."""
        return self._children[id(node)]

    def link(self) -> None:
        """Resolve every reference again, now that all anchors and ids are known.

        Raises:
            SchemaError: as :meth:`resolve`.
        """
        for path, node in self.nodes:
            if "$ref" in node:
                self._targets[id(node)] = self.resolve(node["$ref"], path)

    def target(self, node: Json) -> tuple[Path, Any] | None:
        """Return the target of the reference of one of :attr:`nodes`, None if it has none.

        Call :meth:`link` first.
        """
        return self._targets.get(id(node))

    def resolve(self, reference: Any, path: Path) -> tuple[Path, Any]:
        """Return the target of a ``$ref`` in the schema at ``path``, as path and schema.

        Raises:
            SchemaError: the target is outside this document or does not exist.
        """
        if not isinstance(reference, str):
            raise SchemaError("$ref must be a string", path)
        if self._other_base is not None:
            raise SchemaError("$id in a schema with $ref is not supported", self._other_base)
        base, _, fragment = reference.partition("#")
        if base and base != self._base:
            raise SchemaError(
                f"$ref {reference[:100]} points outside the schema, which is not supported", path
            )
        fragment = unquote(fragment)
        found: tuple[Path, Any] | None = ((), self.root)
        if fragment.startswith("/"):
            if fragment not in self._pointers:
                self._pointers[fragment] = self._pointed(fragment)
            found = self._pointers[fragment]
        elif fragment:
            found = self._anchors.get(fragment)
        if found is None or not isinstance(found[1], (dict, bool)):
            raise SchemaError(f"$ref {reference[:100]} points to nothing", path)
        return found

    def _pointed(self, pointer: str) -> tuple[Path, Any] | None:
        node: Any = self.root
        path: Path = ()
        for text in pointer.split("/")[1:]:
            step: str | int = text.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and _INDEX.fullmatch(text) and int(text) < len(node):
                step = int(text)
            elif not (isinstance(node, dict) and step in node):
                return None
            node = node[step]
            path += (step,)
        return path, node


def _fragment(id: Any) -> str | None:
    """Return the name in an ``$id`` of older drafts that consists only of a name."""
    return id[1:] if isinstance(id, str) and id[:1] == "#" and id[1:2] != "/" else None
