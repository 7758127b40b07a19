"""Closes the objects of a checked schema: a model may write only the members that are described.

By the standard, an object without ``additionalProperties`` may have further members of any kind.
Those who write schemas seldom mean that, and small models invent members until the answer is full.
So an object with ``properties`` gets ``"additionalProperties": false``, unless it says otherwise.
Every value of the closed schema also satisfies the original one, unless alternatives of ``oneOf``
differ only in members that are not described.

All schemas that apply to one value are closed together. The parts of ``allOf`` may each describe
some of the members, and each of them alone would forbid those of the others. So the outermost
schema gets the names of all its parts, and the parts stay open.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import count

from offgrid.grammar.document import Document, Json

_IN_PLACE = ("$ref", "allOf", "anyOf", "oneOf")
"""Keywords whose schemas apply to the same value as the schema that has them."""
_ABOUT_OBJECTS = frozenset({
    *_IN_PLACE, "properties", "patternProperties", "additionalProperties", "required",
    "minProperties", "maxProperties", "enum", "const",
})  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")


def closed(text: str) -> str:
    """Return a checked schema, as JSON, with its objects closed.

    An object stays open if it describes no members, has ``additionalProperties``, needs more
    members than it describes, or lists its values (``enum``, ``const``).
    """
    schema: Json = json.loads(text)
    _Closing(schema).run()
    return json.dumps(schema)


class _Closing:
    """Closes the objects of one schema in place."""

    def __init__(self, schema: Json) -> None:
        self._root = schema
        self._document = Document(schema)
        self._document.link()
        self._alone: dict[int, Json] = {}
        """By id, the schemas that somewhere describe a value alone."""
        self._joined: dict[int, Json] = {}
        """By id, the schemas that somewhere describe a value together with others."""
        self._joiners: defaultdict[int, list[tuple[str, Json]]] = defaultdict(list)
        """By the id of a schema, how it is joined with others: the keyword and its schema."""

    def run(self) -> None:
        """Close what can be closed."""
        self._find_uses()
        found = []
        for node in self._alone.values():
            names = self._members(node)
            # A schema that is also joined with others is copied first, because it is open there.
            if names is not None and (id(node) not in self._joined or self._copy(node)):
                found.append((node, names))
        for node, names in found:
            own = node.get("properties", {})
            node["properties"] = {**own, **{name: {} for name in names if name not in own}}
            node["additionalProperties"] = False

    def _find_uses(self) -> None:
        """Follow the schema from its root, and note how each schema in it is used."""
        stack: list[tuple[Json, bool]] = [(self._root, True)]
        while stack:
            node, alone = stack.pop()
            seen = self._alone if alone else self._joined
            if id(node) in seen:
                continue
            seen[id(node)] = node
            for word, child in self._children(node):
                if word not in _IN_PLACE:
                    stack.append((child, True))
                    continue
                still_alone = alone and _passes(node, word)
                if not still_alone:
                    self._joiners[id(child)].append((word, node))
                stack.append((child, still_alone))

    def _children(self, node: Json) -> Iterator[tuple[str, Json]]:
        """Yield the schemas in a schema, and the one that it refers to, with their keywords."""
        for step, child in self._document.children(node):
            if step[0] not in _DEFINITIONS and isinstance(child, dict):
                yield str(step[0]), child
        target = self._document.target(node)
        if target is not None and isinstance(target[1], dict):
            yield "$ref", target[1]

    def _members(self, node: Json) -> list[str] | None:
        """Return the names of all members that the parts of a schema describe; None if objects must
        stay open."""
        if "additionalProperties" in node or not _allows_objects(node):
            return None
        if any(_passes(node, word) for word in _IN_PLACE):
            return None  # its parts are closed themselves
        names: dict[str, None] = {}
        required: set[str] = set()
        least = 0
        described = False
        seen: set[int] = set()
        stack = [node]
        while stack:
            part = stack.pop()
            if id(part) in seen:
                continue
            seen.add(id(part))
            if "enum" in part or "const" in part:
                return None
            if part.get("additionalProperties", False) is not False:
                return None  # a part says that further members are wanted
            if part is not node and part.get("patternProperties"):
                return None
            described = described or "properties" in part
            names.update(dict.fromkeys(part.get("properties", ())))
            required.update(part.get("required", ()))
            least = max(least, part.get("minProperties", 0))
            inner = [child for word, child in self._children(part) if word in _IN_PLACE]
            stack += reversed(inner)
        if not described or (least > len(names) and not node.get("patternProperties")):
            return None
        return list(names) if required <= names.keys() else None

    def _copy(self, node: Json) -> bool:
        """Let the schemas that join a schema with others refer to a copy of it. Return whether that
        is possible: it is not for a schema that is joined where it is written."""
        joiners = self._joiners[id(node)]
        for word, joiner in joiners:
            if word != "$ref" or (id(joiner) in self._alone and _passes(joiner, word)):
                return False
        definitions = self._root.setdefault("$defs", {})
        name = next(name for name in map(str, count(len(definitions))) if name not in definitions)
        definitions[name] = dict(node)
        for _, joiner in joiners:
            joiner["$ref"] = f"#/$defs/{name}"
        return True


def _passes(node: Json, word: str) -> bool:
    """Whether a schema says nothing about objects itself and leaves that to one schema of a
    keyword: it is a reference, a union, or an ``allOf`` with one part."""
    if (node.keys() & _ABOUT_OBJECTS) != {word}:
        return False
    return word != "allOf" or len(node[word]) == 1


def _allows_objects(node: Json) -> bool:
    types = node.get("type", "object")
    return types == "object" or "object" in types
