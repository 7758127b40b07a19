"""Rules of a grammar as trees, and the check that each of them can end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """A part of a rule: ``kind`` is ``regex``, ``ref``, ``seq``, ``alt`` or ``repeat``.

    ``text`` is a regular expression, a rule's name, or a repetition's suffix. ``count`` is how
    often a repetition may be expanded.
    """

    kind: str
    text: str = ""
    parts: list[Node] = field(default_factory=list)
    count: int = 1


def references(node: Node) -> Iterator[str]:
    """Yield the names of the rules that a part uses, in order."""
    if node.kind == "ref":
        yield node.text
    for part in node.parts:
        yield from references(part)


def in_order(rules: dict[str, Node], first: list[str]) -> list[str]:
    """Return the rules reachable from some rules, used rules first as far as possible."""
    order: list[str] = []
    seen: set[str] = set()
    for name in first:
        stack = [(name, False)]
        while stack:
            name, done = stack.pop()
            if done:
                order.append(name)
            elif name not in seen and name in rules:
                seen.add(name)
                stack.append((name, True))
                stack += ((used, False) for used in references(rules[name]))
    return order


MAX_STEPS = 150_000
"""Rule parts visited before the search gives up; a few times as many as a grammar has."""


class TooTangled(ValueError):
    """The rules depend on each other so much that finding the endless ones takes too long."""


def endless_rule(rules: dict[str, Node], start: str) -> str | None:
    """Return a rule that an answer could enter and never leave, None if there is none.

    Raises:
        TooTangled: the search has visited :data:`MAX_STEPS` parts.
    """
    ending: set[str] = set()
    waiting: dict[str, list[str]] = {}
    steps = 0

    def missing(node: Node) -> list[str]:
        """Return the rules that a node needs and that are not known to end; any may be endless."""
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise TooTangled("its rules refer to each other too often")
        if node.kind == "ref":
            return [node.text] if node.text in rules and node.text not in ending else []
        if node.kind == "repeat" and node.text.startswith(("*", "?", "{0,", "{0}")):
            return []
        lacks = (missing(part) for part in node.parts)
        if node.kind == "alt":
            every = list(lacks)
            return [] if [] in every else [name for names in every for name in names]
        return next((names for names in lacks if names), [])

    order = in_order(rules, [start])
    queue = order[::-1]
    while queue:
        name = queue.pop()
        if name in ending:
            continue
        lacks = missing(rules[name])
        if not lacks:
            ending.add(name)
            queue += waiting.pop(name, ())
        for other in lacks:
            waiting.setdefault(other, []).append(name)
    return next((name for name in order if name not in ending), None)
