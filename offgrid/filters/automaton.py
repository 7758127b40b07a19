"""Makes one automaton of all patterns of a filter: the tables of ``csrc/og_filter.h``.

A state is the place of a character in a pattern (Glushkov 1961). Between the places are nodes that
are connected without characters, some only at a word boundary or only elsewhere; they are removed
here.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable

from offgrid.filters.pattern import (
    ALWAYS,
    Boundary,
    Chars,
    Choice,
    Node,
    PatternError,
    Repeat,
    Sequence,
    ascii_of,
)

MAX_STATES = 50_000
"""States of all patterns of a filter: one for each character that they name, counted as often as it
may be repeated."""
MAX_EDGES = 1_000_000
ASCII = 128
_CLASS = struct.Struct("=4I2i4B")


class Automaton:
    """Collects patterns; :meth:`tables` returns them as one automaton."""

    def __init__(self) -> None:
        self._moves: list[list[tuple[int, int]]] = [[]]
        """For each node: the nodes that follow without a character, and when."""
        self._state_at: dict[int, int] = {}
        """Node before a character -> its state."""
        self._after: list[int] = []
        self._classes: dict[Chars, int] = {}
        self._class: list[int] = []
        self._ends: set[int] = set()

    def add(self, pattern: Node) -> None:
        """Add a pattern.

        Raises:
            PatternError: it matches the empty text, or there are too many patterns.
        """
        start = self._node()
        end = self._build(pattern, start)
        self._ends.add(end)
        self._moves[0].append((start, ALWAYS))
        if self._closure(start)[1]:
            raise PatternError("it matches the empty text; make a part of it necessary")

    def _node(self) -> int:
        self._moves.append([])
        return len(self._moves) - 1

    def _build(self, node: Node, start: int) -> int:
        """Add the nodes of a part of a pattern; return the node after it."""
        if isinstance(node, Chars):
            if len(self._class) >= MAX_STATES:
                raise PatternError(f"the patterns have more than {MAX_STATES} places; use fewer")
            place, end = self._node(), self._node()
            self._moves[start].append((place, ALWAYS))
            self._state_at[place] = len(self._class)
            self._class.append(self._classes.setdefault(node, len(self._classes)))
            self._after.append(end)
            return end
        if isinstance(node, Boundary):
            end = self._node()
            self._moves[start].append((end, node.when))
            return end
        if isinstance(node, Sequence):
            for item in node.items:
                start = self._build(item, start)
            return start
        if isinstance(node, Choice):
            end = self._node()
            for item in node.items:
                begin = self._node()
                self._moves[start].append((begin, ALWAYS))
                self._moves[self._build(item, begin)].append((end, ALWAYS))
            return end
        assert isinstance(node, Repeat)
        for _ in range(node.least):
            start = self._build(node.item, start)
        end = self._node()
        for _ in range(node.most - node.least):
            self._moves[start].append((end, ALWAYS))
            start = self._build(node.item, start)
        self._moves[start].append((end, ALWAYS))
        return end

    def _closure(self, start: int) -> tuple[dict[int, int], int]:
        """Return what may follow a node: state -> when; and when a pattern may end there."""
        found: dict[int, int] = {}
        ends = 0
        seen = {(start, ALWAYS)}
        stack = [(start, ALWAYS)]
        while stack:
            node, when = stack.pop()
            if node in self._ends:
                ends |= when
            state = self._state_at.get(node)
            if state is not None:
                found[state] = found.get(state, 0) | when
            for other, condition in self._moves[node]:
                step = (other, when & condition)
                if step[1] and step not in seen:
                    seen.add(step)
                    stack.append(step)
        return found, ends

    def tables(self) -> tuple[bytes, ...]:
        """Return the arrays in the order of ``struct og_filter``; empty without patterns.

        Raises:
            PatternError: the patterns need more than :data:`MAX_EDGES` edges.
        """
        if not self._class:
            return ()
        begins, targets, whens, ends = array("i", [0]), array("i"), bytearray(), bytearray()
        for node in (*self._after, 0):
            following, end = self._closure(node)
            for state, when in sorted(following.items()):
                targets.append(state)
                whens.append(when)
            begins.append(len(targets))
            ends.append(end)
            if len(targets) > MAX_EDGES:
                raise PatternError("the patterns are too large together; use fewer or shorter ones")
        del ends[-1]
        classes, ranges = bytearray(), array("I")
        for chars in self._classes:
            begin = len(ranges) // 2
            ranges.extend(code for pair in chars.ranges for code in pair)
            words = [0, 0, 0, 0]
            for code in ascii_of(chars):
                words[code >> 5] |= 1 << (code & 31)
            classes += _CLASS.pack(
                *words, begin, len(ranges) // 2, chars.kinds, chars.others, chars.negated, 0
            )
        first = self._first(begins[-2], targets)
        return (
            begins.tobytes(), targets.tobytes(), bytes(whens), array("i", self._class).tobytes(),
            bytes(ends), bytes(classes), ranges.tobytes(), *first,
        )  # fmt: skip

    def _first(self, begin: int, targets: array[int]) -> Iterable[bytes]:
        """Return the edges of the beginning by the ASCII character that takes them."""
        classes = list(self._classes)
        edges: list[list[int]] = [[] for _ in range(ASCII)]
        by_class: dict[int, list[int]] = {}
        for edge in range(begin, len(targets)):
            by_class.setdefault(self._class[targets[edge]], []).append(edge)
        for index, members in by_class.items():
            for code in ascii_of(classes[index]):
                edges[code] += members
        begins, all_edges = array("i", [0]), array("i")
        for group in edges:
            all_edges.extend(group)
            begins.append(len(all_edges))
        return begins.tobytes(), all_edges.tobytes()
