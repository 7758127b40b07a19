"""Regular languages with intersection and complement, and their texts as regular expressions.

llguidance has the operators ``&`` and ``~`` in Lark, but a JSON schema's ``pattern`` has neither
them nor look-around. So a pattern with a look-ahead is read here, turned into an automaton by
derivatives (J. A. Brzozowski, Derivatives of Regular Expressions, JACM 1964), and written as a
pattern without look-ahead that matches exactly the same texts (by eliminating states).

The meaning of a pattern is the compiler's: ``.`` matches all but the line feed, ``\\d`` and ``\\w``
are ASCII, ``\\s`` is Unicode's white space. Texts consist of the characters that strings of an
answer can contain: see :data:`~offgrid.grammar.options.ESCAPES`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

MAX_LENGTH = 600
"""Characters of a pattern that is read here."""
MAX_DEPTH = 30
"""Nested groups."""
MAX_STATES = 120
"""States of an automaton."""
MAX_EXPRESSIONS = 8_000
"""Different expressions that a search for states may meet."""
MAX_STEPS = 150_000
"""Parts of expressions that the search may combine."""
MAX_TEXT = 6_000
"""Characters of a pattern that is written here."""
MAX_COUNT = 200
"""Largest number in ``{m,n}``."""

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint, inclusive ranges of code points."""
_TOP = 0x10FFFF
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/-&~#!\"%',:;<=>@_` ")
_SPACES = (
    (9, 13), (32, 32), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
)  # fmt: skip
_SHORT = {
    "d": ((48, 57),), "w": ((48, 57), (65, 90), (95, 95), (97, 122)), "s": _SPACES,
}  # fmt: skip
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0, "a": 7}
_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|[xu]\{([0-9A-Fa-f]{1,6})\})")
_COUNT = re.compile(r"\{(\d{1,9})(?:(,)(\d{0,9}))?\}")
_GROUP = re.compile(r"\(\?(?:P?<[A-Za-z_]\w*>|:)")


class Unwritable(ValueError):
    """The pattern cannot be read or written here; the message continues "a pattern"."""


# --- sets of characters -----------------------------------------------------------------------


def _normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _others(ranges: Ranges) -> Ranges:
    """Return all code points that are not in some ranges."""
    edges = [-1, *(edge for low, high in ranges for edge in (low, high)), _TOP + 1]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1)


_UNWRITTEN: Ranges = ((0, 7), (11, 11), (14, 31), (127, 127), (0xD800, 0xDFFF))
"""Characters that no string of an answer contains: see ``_is_control`` of the schema's checks."""

# --- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a pattern.

    ``kind`` is ``set``, ``cat``, ``alt``, ``repeat``, ``start``, ``end`` or ``look``. ``low`` and
    ``high`` count a repetition (-1 for no limit); for ``look``, ``low`` is 1 if it is negative.
    """

    kind: str
    ranges: Ranges = ()
    parts: tuple[Part, ...] = ()
    low: int = 0
    high: int = 0
    asserts: bool = False
    """Whether there is an anchor or a look-ahead in it."""


def _part(kind: str, parts: Iterable[Part] = (), low: int = 0, high: int = 0) -> Part:
    inner = tuple(parts)
    asserts = kind in ("start", "end", "look") or any(part.asserts for part in inner)
    return Part(kind, (), inner, low, high, asserts)


def read(pattern: str, most: int = MAX_LENGTH) -> Part:
    """Read a pattern of ECMA-262 of at most ``most`` characters.

    Raises:
        Unwritable: it is malformed, too long, or uses syntax that is not supported here.
    """
    if len(pattern) > most:
        raise Unwritable(f"with a look-ahead may have at most {most} characters")
    return _Reader(pattern).whole()


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> Part:
        part = self._alternatives(0)
        if self._at < len(self._pattern):
            raise Unwritable("has an unmatched )")
        return part

    def _takes(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _alternatives(self, depth: int) -> Part:
        if depth > MAX_DEPTH:
            raise Unwritable("is nested too deeply")
        parts = [self._sequence(depth)]
        while self._takes("|"):
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else _part("alt", parts)

    def _sequence(self, depth: int) -> Part:
        parts: list[Part] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            item = self._item(depth)
            parts.append(item if item.kind in ("start", "end", "look") else self._repeated(item))
        return parts[0] if len(parts) == 1 else _part("cat", parts)

    def _item(self, depth: int) -> Part:
        pattern, at = self._pattern, self._at
        if self._takes("^"):
            return _part("start")
        if self._takes("$"):
            return _part("end")
        if self._takes("."):
            return Part("set", _others(((10, 10),)))
        if pattern[at] == "[":
            return Part("set", self._class())
        if pattern[at] == "(":
            return self._group(depth)
        if pattern[at] in "*+?":
            raise Unwritable(f"has nothing before {pattern[at]} to repeat")
        if pattern[at] == "\\":
            return Part("set", self._escape(in_class=False))
        if pattern[at] == "{":
            raise Unwritable("has a { that counts nothing; write \\{")
        self._at += 1
        return Part("set", ((ord(pattern[at]), ord(pattern[at])),))

    def _group(self, depth: int) -> Part:
        named = _GROUP.match(self._pattern, self._at)
        kind = "group"
        if named:
            self._at = named.end()
        elif self._takes("(?!"):
            kind = "not"
        elif self._takes("(?="):
            kind = "look"
        elif self._pattern.startswith("(?", self._at):
            shown = self._pattern[self._at : self._at + 4]
            raise Unwritable(f"has a look-ahead and beside it {shown}, which is not supported")
        else:
            self._at += 1
        inner = self._alternatives(depth + 1)
        if not self._takes(")"):
            raise Unwritable("has an unmatched (")
        return inner if kind == "group" else _part("look", [inner], low=kind == "not")

    def _repeated(self, item: Part) -> Part:
        count = _COUNT.match(self._pattern, self._at)
        if count:
            self._at = count.end()
            low = int(count[1])
            high = low if not count[2] else int(count[3]) if count[3] else -1
            if max(low, high) > MAX_COUNT:
                raise Unwritable(f"counts beyond {MAX_COUNT} beside a look-ahead")
            if 0 <= high < low:
                raise Unwritable("has a count whose end is below its beginning")
        elif self._takes("*"):
            low, high = 0, -1
        elif self._takes("+"):
            low, high = 1, -1
        elif self._takes("?"):
            low, high = 0, 1
        else:
            return item
        self._takes("?")  # lazy: which texts match does not depend on it
        if self._at < len(self._pattern) and (
            self._pattern[self._at] in "*+?" or _COUNT.match(self._pattern, self._at)
        ):
            raise Unwritable("repeats a repetition; put it in a group")
        return _part("repeat", [item], low, high)

    def _escape(self, in_class: bool) -> Ranges:
        code = _CODE.match(self._pattern, self._at)
        if code:
            self._at = code.end()
            point = int(code[1] or code[2] or code[3], 16)
            if point > _TOP or 0xD800 <= point <= 0xDFFF:
                raise Unwritable("names half a character (a surrogate)")
            return ((point, point),)
        sign = self._pattern[self._at + 1 : self._at + 2]
        if not sign:
            raise Unwritable("ends in a backslash")
        after = self._pattern[self._at + 2 : self._at + 3]
        self._at += 2
        if sign.lower() in _SHORT:
            ranges = _SHORT[sign.lower()]
            return ranges if sign.islower() else _others(ranges)
        if sign in _CONTROLS and not (sign == "0" and after.isdigit()):
            return ((_CONTROLS[sign], _CONTROLS[sign]),)
        if in_class and sign == "b":
            return ((8, 8),)
        if sign in _PUNCTUATION:
            return ((ord(sign), ord(sign)),)
        raise Unwritable(f"has a look-ahead and beside it \\{sign}, which is not supported")

    def _class(self) -> Ranges:
        self._at += 1
        negated = self._takes("^")
        found: list[tuple[int, int]] = []
        while not self._takes("]"):
            if self._at >= len(self._pattern):
                raise Unwritable("does not end: unclosed character class")
            low = self._member()
            if self._pattern[self._at : self._at + 1] == "-" and (
                self._pattern[self._at + 1 : self._at + 2] not in ("]", "")
            ):
                self._at += 1
                high = self._member()
                if not (_is_one(low) and _is_one(high)) or high[0][0] < low[0][0]:
                    raise Unwritable("has an invalid range in a character class")
                low = ((low[0][0], high[0][0]),)
            found += low
        ranges = _normal(found)
        return _others(ranges) if negated else ranges

    def _member(self) -> Ranges:
        character = self._pattern[self._at]
        if character == "\\":
            return self._escape(in_class=True)
        self._at += 1
        return ((ord(character), ord(character)),)


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


# --- expressions ------------------------------------------------------------------------------


class Language:
    """Regular expressions over one partition of all characters, as numbers.

    Equal expressions have equal numbers, so that an automaton's states are few. An expression is a
    tuple: ``("set", classes)``, ``("cat", a, b)``, ``("alt", *some)``, ``("and", *some)``,
    ``("not", a)`` or ``("repeat", a, low, high)``.

    Args:
        parts: all patterns that will be used.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        sets = sorted({part.ranges for part in _all_parts(parts) if part.kind == "set"})
        edges = {0}
        for ranges in (*sets, _UNWRITTEN):
            edges.update(edge for low, high in ranges for edge in (low, high + 1))
        self._starts = sorted(edge for edge in edges if edge <= _TOP)
        pieces = [(low, high - 1) for low, high in pairwise([*self._starts, _TOP + 1])]
        signatures: dict[tuple[int, ...], int] = {}
        self._classes: list[list[tuple[int, int]]] = []
        self._class_of: list[int] = []
        for piece in pieces:
            if _contains(_UNWRITTEN, piece[0]):
                self._class_of.append(-1)
                continue
            signature = tuple(n for n, some in enumerate(sets) if _contains(some, piece[0]))
            index = signatures.setdefault(signature, len(signatures))
            if index == len(self._classes):
                self._classes.append([])
            self._classes[index].append(piece)
            self._class_of.append(index)
        self._nodes: list[tuple[object, ...]] = []
        self._nullable: list[bool] = []
        self._ids: dict[tuple[object, ...], int] = {}
        self._derived: dict[tuple[int, int], int] = {}
        self._steps = 0
        self.none = self._make(("alt",), nullable=False)
        self.empty = self._make(("cat",), nullable=True)
        self._full = (1 << len(self._classes)) - 1
        self.all = self._repeat(self._set(self._full), 0, -1)

    def _make(self, node: tuple[object, ...], *, nullable: bool) -> int:
        found = self._ids.get(node)
        if found is None:
            if len(self._nodes) >= MAX_EXPRESSIONS:
                raise Unwritable("has a look-ahead that is too complex")
            found = self._ids[node] = len(self._nodes)
            self._nodes.append(node)
            self._nullable.append(nullable)
        return found

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise Unwritable("has a look-ahead that is too complex")

    def _set(self, classes: int) -> int:
        return self._make(("set", classes), nullable=False) if classes else self.none

    def cat(self, a: int, b: int) -> int:
        """Return the texts of ``a`` followed by those of ``b``."""
        if self.none in (a, b):
            return self.none
        if a == self.empty or (a == b == self.all):
            return b
        if b == self.empty:
            return a
        first = self._nodes[a]
        if first[0] == "cat":
            return self.cat(_int(first[1]), self.cat(_int(first[2]), b))
        return self._make(("cat", a, b), nullable=self._nullable[a] and self._nullable[b])

    def either(self, some: Iterable[int]) -> int:
        """Return the texts of any of some languages."""
        found: set[int] = set()
        classes = 0
        for one in some:
            node = self._nodes[one]
            self._step(len(node))
            for inner in node[1:] if node[0] == "alt" else (one,):
                kind, *args = self._nodes[_int(inner)]
                if kind == "set":
                    classes |= _int(args[0])
                else:
                    found.add(_int(inner))
        if self.all in found:
            return self.all
        if classes:
            found.add(self._set(classes))
        if len(found) == 1:
            return found.pop()
        nullable = any(self._nullable[one] for one in found)
        return self._make(("alt", *sorted(found)), nullable=nullable)

    def both(self, some: Iterable[int]) -> int:
        """Return the texts that are in all of some languages."""
        found: set[int] = set()
        for one in some:
            node = self._nodes[one]
            self._step(len(node))
            found.update(map(_int, node[1:]) if node[0] == "and" else (one,))
        found.discard(self.all)
        if self.none in found:
            return self.none
        if not found:
            return self.all
        if len(found) == 1:
            return found.pop()
        nullable = all(self._nullable[one] for one in found)
        return self._make(("and", *sorted(found)), nullable=nullable)

    def none_of(self, a: int) -> int:
        """Return all texts that are not in ``a``."""
        if a == self.none:
            return self.all
        if a == self.all:
            return self.none
        node = self._nodes[a]
        if node[0] == "not":
            return _int(node[1])
        return self._make(("not", a), nullable=not self._nullable[a])

    def _repeat(self, a: int, low: int, high: int) -> int:
        if high == 0 or a == self.empty:
            return self.empty
        if a == self.none:
            return self.empty if low == 0 else self.none
        if (low, high) == (1, 1):
            return a
        low = 0 if self._nullable[a] else low
        return self._make(("repeat", a, low, high), nullable=low == 0)

    # --- from patterns ------------------------------------------------------------------------

    def found(self, part: Part) -> int:
        """Return the texts in which a pattern is found, as ``search`` in Python finds it."""
        later = self.after(part, self.all, start=False)
        anywhere = self.cat(self._set(self._full), self.cat(self.all, later))
        return self.either([self.after(part, self.all, start=True), anywhere])

    def after(self, part: Part, rest: int, *, start: bool) -> int:
        """Return the texts that begin with a pattern and go on with a text of ``rest``.

        Args:
            start: whether the pattern begins where the whole text begins.

        Raises:
            Unwritable: an anchor or a look-ahead stands where it is not supported.
        """
        if not part.asserts:
            return self.cat(self._plain(part), rest)
        if part.kind == "start":
            return rest if start else self.none
        if part.kind == "end":
            return self.empty if self._nullable[rest] else self.none
        if part.kind == "look":
            seen = self.after(part.parts[0], self.all, start=start)
            return self.both([rest, self.none_of(seen) if part.low else seen])
        if part.kind == "alt":
            return self.either([self.after(one, rest, start=start) for one in part.parts])
        if part.kind == "repeat":
            raise Unwritable("repeats a group with an anchor or a look-ahead in it")
        width = 0  # parts before the first one that may consume something
        while width < len(part.parts) and part.parts[width].kind in ("start", "look", "end"):
            width += 1
        for index, one in reversed([*enumerate(part.parts)]):
            if index > width and _has_start(one):
                raise Unwritable("has ^ after its beginning, beside a look-ahead")
            rest = self.after(one, rest, start=start and index <= width)
        return rest

    def _plain(self, part: Part) -> int:
        """Return the texts of a part without anchors and look-aheads."""
        if part.kind == "set":
            classes = 0
            for low, high in part.ranges:
                at = bisect_right(self._starts, low) - 1
                while at < len(self._starts) and self._starts[at] <= high:
                    classes |= 1 << self._class_of[at] if self._class_of[at] >= 0 else 0
                    at += 1
            return self._set(classes)
        if part.kind == "repeat":
            return self._repeat(self._plain(part.parts[0]), part.low, part.high)
        if part.kind == "alt":
            return self.either(map(self._plain, part.parts))
        whole = self.empty
        for one in reversed(part.parts):
            whole = self.cat(self._plain(one), whole)
        return whole

    # --- automata -----------------------------------------------------------------------------

    def _derivative(self, a: int, index: int) -> int:
        """Return what may follow a character of a class in the texts of ``a``."""
        key = (a, index)
        found = self._derived.get(key)
        if found is None:
            found = self._derived[key] = self._derive(a, index)
        return found

    def _derive(self, a: int, index: int) -> int:
        kind, *args = self._nodes[a]
        if kind == "set":
            return self.empty if _int(args[0]) >> index & 1 else self.none
        if kind == "cat":
            if not args:
                return self.none
            first, rest = _int(args[0]), _int(args[1])
            parts = [self.cat(self._derivative(first, index), rest)]
            if self._nullable[first]:
                parts.append(self._derivative(rest, index))
            return self.either(parts)
        if kind == "repeat":
            one, low, high = map(_int, args)
            rest = self._repeat(one, max(low - 1, 0), high - 1 if high > 0 else high)
            return self.cat(self._derivative(one, index), rest)
        inner = [self._derivative(_int(one), index) for one in args]
        if kind == "alt":
            return self.either(inner)
        return self.both(inner) if kind == "and" else self.none_of(inner[0])

    def matches(self, a: int, text: str) -> bool:
        """Return whether a text is in a language."""
        for character in text:
            index = self._class_of[bisect_right(self._starts, ord(character)) - 1]
            if index < 0:
                return False
            a = self._derivative(a, index)
        return self._nullable[a]

    def of_length(self, low: int, high: int) -> int:
        """Return the texts of ``low`` to ``high`` characters; -1 for no limit."""
        return self._repeat(self._set(self._full), low, high)

    def is_empty(self, a: int, most: int) -> bool:
        """Return whether no text is in a language.

        Raises:
            Unwritable: more than ``most`` states were not enough to tell.
        """
        seen = {a: None}
        for state in (order := [a]):  # grows
            if self._nullable[state]:
                return False
            for index in range(len(self._classes)):
                to = self._derivative(state, index)
                if to not in seen:
                    if len(seen) >= most:
                        raise Unwritable("is too complex")
                    seen[to] = None
                    order.append(to)
        return True

    def pattern(self, a: int) -> str:
        """Return an anchored pattern, without look-around, for exactly the texts of ``a``.

        Raises:
            Unwritable: there are too many states, or the pattern would be too long.
        """
        states = {a: 0}
        rows: list[list[int]] = []
        for state in (order := [a]):  # grows
            row = []
            for index in range(len(self._classes)):
                to = self._derivative(state, index)
                if to not in states:
                    if len(states) >= MAX_STATES:
                        raise Unwritable("has a look-ahead that needs too many states")
                    states[to] = len(states)
                    order.append(to)
                row.append(states[to])
            rows.append(row)
        groups = _merged(rows, [self._nullable[state] for state in order])
        return f"^{_eliminated(*groups, self._text)}$"

    def _text(self, classes: int) -> str:
        """Return a set of classes as a character class of ECMA-262 and Rust."""
        if classes == self._full:
            return "(?s:.)"
        inside = [r for n, some in enumerate(self._classes) if classes >> n & 1 for r in some]
        outside = [r for n, some in enumerate(self._classes) if not classes >> n & 1 for r in some]
        if not outside or len(_normal(inside)) <= len(_normal(outside)):
            return f"[{_ranges_text(_normal(inside))}]"
        return f"[^{_ranges_text(_normal(outside))}]"


def _all_parts(parts: Iterable[Part]) -> Iterable[Part]:
    stack = list(parts)
    while stack:
        part = stack.pop()
        yield part
        stack += part.parts


def _has_start(part: Part) -> bool:
    return any(one.kind == "start" for one in _all_parts([part]))


def _contains(ranges: Ranges, point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _ranges_text(ranges: Ranges) -> str:
    return "".join(
        _point(low) if low == high else f"{_point(low)}-{_point(high)}" for low, high in ranges
    )


def _point(point: int) -> str:
    character = chr(point)
    if character.isascii() and character.isalnum():
        return character
    return f"\\u{{{point:x}}}"


def _merged(
    rows: list[list[int]], accepting: list[bool]
) -> tuple[list[dict[int, int]], list[bool]]:
    """Merge states that accept the same texts (E. F. Moore 1956), and drop those that accept none.

    Returns:
        For each state, the classes that lead to each next one, as bits; which states accept. The
        first state is the beginning.
    """
    group = [int(accepts) for accepts in accepting]
    while True:
        names: dict[tuple[int, ...], int] = {}
        keys = [(group[s], *(group[to] for to in row)) for s, row in enumerate(rows)]
        new = [names.setdefault(key, len(names)) for key in keys]
        if len(names) == len(set(group)):
            break
        group = new
    group = new  # the first state is the first of its group, so that its number is 0
    edges: list[dict[int, int]] = [{} for _ in names]
    accepts = [False] * len(names)
    for state, row in enumerate(rows):
        accepts[group[state]] = accepting[state]
        edges[group[state]] = {}
        for index, to in enumerate(row):
            to = group[to]
            edges[group[state]][to] = edges[group[state]].get(to, 0) | 1 << index
    alive = {state for state, end in enumerate(accepts) if end}
    while more := {s for s, out in enumerate(edges) if s not in alive and alive & out.keys()}:
        alive |= more
    for state, out in enumerate(edges):
        kept = {to: bits for to, bits in out.items() if to in alive and state in alive}
        edges[state] = kept
    return edges, accepts


def _eliminated(
    edges: list[dict[int, int]], accepts: list[bool], text: Callable[[int], str]
) -> str:
    """Write an automaton as a regular expression by eliminating its states one by one."""
    begin, end = -1, -2
    labels: dict[tuple[int, int], _Written] = {(begin, 0): _EMPTY}
    for state, out in enumerate(edges):
        for to, bits in out.items():
            labels[state, to] = _Written(text(bits), 2)
        if accepts[state]:
            labels[state, end] = _EMPTY
    left = {state for pair in labels for state in pair} - {begin, end}
    while left:
        sizes: dict[int, list[int]] = {state: [0, 0, 0, 0] for state in left}
        for (a, b), label in labels.items():
            if a != b:
                for state, place in ((b, 0), (a, 2)):
                    if state in sizes:
                        sizes[state][place] += 1
                        sizes[state][place + 1] += len(label.text)
        state = min(left, key=lambda s: (_weight(sizes[s], _loop(labels, s)), s))
        left.remove(state)
        loop = labels.pop((state, state), _EMPTY).starred()
        into = [(a, label) for (a, b), label in labels.items() if b == state]
        out_of = [(b, label) for (a, b), label in labels.items() if a == state]
        for a, first in into:
            for b, last in out_of:
                way = first.then(loop).then(last)
                known = labels.get((a, b))
                labels[a, b] = way if known is None else known.or_(way)
        labels = {pair: label for pair, label in labels.items() if state not in pair}
        if sum(len(label.text) for label in labels.values()) > MAX_TEXT:
            raise Unwritable("has a look-ahead that is too complex")
    whole = labels.get((begin, end))
    if whole is None:
        raise Unwritable("matches nothing: its look-ahead contradicts the rest")
    return whole.grouped(1)


def _weight(sizes: list[int], loop: int) -> int:
    """Return about how many characters the elimination of a state adds (Delgado and Morais)."""
    n_in, in_size, n_out, out_size = sizes
    return in_size * (n_out - 1) + out_size * (n_in - 1) + loop * (n_in * n_out - 1)


def _loop(labels: dict[tuple[int, int], _Written], state: int) -> int:
    return len(labels[state, state].text) if (state, state) in labels else 0


@dataclass(frozen=True)
class _Written:
    """A regular expression; ``level`` is 0 for alternatives, 1 for a sequence, 2 for an atom.

    ``optional`` says that it also matches the empty text, which ``text`` need not.
    """

    text: str
    level: int
    optional: bool = False

    def grouped(self, level: int) -> str:
        if self.optional and self.text:
            return f"{self.text if self.level == 2 else f'(?:{self.text})'}?"
        return self.text if self.level >= level else f"(?:{self.text})"

    def then(self, other: _Written) -> _Written:
        if not self.text or not other.text:
            return self if self.text else other
        return _Written(self.grouped(1) + other.grouped(1), 1)

    def or_(self, other: _Written) -> _Written:
        optional = self.optional or other.optional
        if not self.text or not other.text or self.text == other.text:
            kept = self if self.text else other
            return _Written(kept.text, kept.level, optional)
        return _Written(f"{self.text}|{other.text}", 0, optional)

    def starred(self) -> _Written:
        if not self.text:
            return self
        return _Written(f"{self.text if self.level == 2 else f'(?:{self.text})'}*", 1)


_EMPTY = _Written("", 2, optional=True)
