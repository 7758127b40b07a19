"""Parses the regular expressions of a content filter: a part of Python's syntax.

Everything is left out that cannot be followed in one pass (references to groups, lookarounds), or
whose matches have no greatest length (``*``, ``+``, ``{2,}``): text that may become a match is held
back, and a stream must not wait for ever.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NoReturn

from offgrid.filters.folding import cases, foldings

MAX_WIDTH = 1000
"""Characters of the longest match of a pattern."""
MAX_DEPTH = 64
"""Groups inside each other."""
WORD, DIGIT, SPACE = 1, 2, 4
"""Kinds of characters, as in ``csrc/og_filter.h``."""
INSIDE, BOUNDARY, ALWAYS = 1, 2, 3
_FEW = 256
"""Characters of a range that are looked at one by one."""
_KINDS = {"w": WORD, "d": DIGIT, "s": SPACE}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_HEX = {"x": 2, "u": 4, "U": 8}


class PatternError(ValueError):
    """A pattern is not valid or not supported; the message says why and what to write instead."""


@dataclass(frozen=True)
class Chars:
    """One character of a set: of the ranges (ascending, disjoint), of one of the ``kinds``, or not
    of one of the ``others``; with ``negated``, any other character."""

    ranges: tuple[tuple[int, int], ...] = ()
    kinds: int = 0
    others: int = 0
    negated: bool = False

    def has(self, character: str) -> bool:
        """Whether a character belongs to the set."""
        code = ord(character)
        found = any(first <= code <= last for first, last in self.ranges)
        kinds = kinds_of(character)
        found = found or bool(self.kinds & kinds) or bool(self.others & ~kinds)
        return found != self.negated


@dataclass(frozen=True)
class Boundary:
    """The place between two characters where :data:`BOUNDARY` or :data:`INSIDE` holds."""

    when: int


@dataclass(frozen=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    item: Node
    least: int
    most: int


Node = Chars | Boundary | Sequence | Choice | Repeat


@functools.lru_cache(maxsize=4096)
def ascii_of(chars: Chars) -> frozenset[int]:
    """Return the ASCII characters of a set."""
    return frozenset(code for code in range(128) if chars.has(chr(code)))


def kinds_of(character: str) -> int:
    """Return the kinds of a character, as Python's regular expressions define them."""
    kinds = WORD if character.isalnum() or character == "_" else 0
    kinds |= DIGIT if character.isdecimal() else 0
    return kinds | (SPACE if character.isspace() else 0)


def width(node: Node) -> int:
    """Return the number of characters of the longest match."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Boundary):
        return 0
    if isinstance(node, Repeat):
        return node.most * width(node.item)
    widths = [width(item) for item in node.items]
    return sum(widths) if isinstance(node, Sequence) else max(widths)


def parse_pattern(source: str, *, any_case: bool = False) -> Node:
    """Parse a pattern.

    Args:
        source: the regular expression.
        any_case: whether letters stand for all their cases.

    Raises:
        PatternError: it is not valid, is not supported, or has matches of more than
            :data:`MAX_WIDTH` characters.
    """
    parser = _Parser(source, any_case)
    node = parser.choice(0)
    if parser.at < len(source):
        raise PatternError("it closes a group that is not open; write \\) for a parenthesis")
    longest = width(node)
    if longest > MAX_WIDTH:
        raise PatternError(
            f"its longest match has {longest} characters, and {MAX_WIDTH} are allowed; repeat less"
        )
    return node


class _Parser:
    def __init__(self, source: str, any_case: bool) -> None:
        self._source = source
        self._any_case = any_case
        self.at = 0

    def _peek(self) -> str:
        return self._source[self.at : self.at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise PatternError("it ends in the middle; complete it")
        self.at += 1
        return character

    def _takes(self, text: str) -> bool:
        if self._source.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def choice(self, depth: int) -> Node:
        """Parse alternatives up to the end of the group or pattern."""
        if depth > MAX_DEPTH:
            raise PatternError(f"more than {MAX_DEPTH} groups are inside each other; use fewer")
        items = [self._sequence(depth)]
        while self._takes("|"):
            items.append(self._sequence(depth))
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self, depth: int) -> Node:
        items: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._repeated(self._atom(depth)))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _atom(self, depth: int) -> Node:
        character = self._next()
        if character == "(":
            if self._peek() == "?" and not self._takes("?:"):
                raise PatternError("(? is supported only as (?:, which groups")
            node = self.choice(depth + 1)
            if not self._takes(")"):
                raise PatternError("a group is not closed; add )")
            return node
        if character == "[":
            return self._set()
        if character == ".":
            return Chars(((10, 10),), negated=True)
        if character == "\\":
            return self._escaped()
        if character in "*+?{":
            raise PatternError(
                f"{character} repeats nothing; write \\{character} for the character"
            )
        if character in "^$":
            raise PatternError(
                f"{character} is not supported, because the filter looks everywhere in a text; "
                f"write \\b for the edge of a word, or \\{character} for the character"
            )
        return self._one(character)

    def _one(self, character: str) -> Chars:
        return self._cased(Chars(((ord(character), ord(character)),)))

    def _escaped(self) -> Node:
        character = self._next()
        if character in "bB":
            return Boundary(BOUNDARY if character == "b" else INSIDE)
        if character.lower() in _KINDS:
            kind = _KINDS[character.lower()]
            return Chars(kinds=kind) if character.islower() else Chars(others=kind)
        return self._one(self._literal(character))

    def _literal(self, character: str) -> str:
        """Return the character that an escape stands for, after its first character."""
        if character in _HEX:
            digits = self._source[self.at : self.at + _HEX[character]]
            self.at += len(digits)
            try:
                return chr(int(digits, 16)) if len(digits) == _HEX[character] else self._bad()
            except (ValueError, OverflowError):
                self._bad()
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isalnum() and character.isascii():
            raise PatternError(f"\\{character} is not supported; leave out the backslash")
        return character

    def _bad(self) -> NoReturn:
        raise PatternError("an escape such as \\x41 or \\u00e4 has a wrong number of digits")

    def _set(self) -> Chars:
        negated = self._takes("^")
        ranges: list[tuple[int, int]] = []
        kinds = others = 0
        is_first = True
        while is_first or self._peek() != "]":
            is_first = False
            begin = self._member()
            if isinstance(begin, Chars):
                kinds, others = kinds | begin.kinds, others | begin.others
            elif self._peek() == "-" and self._source[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                end = self._member()
                if isinstance(end, Chars) or ord(end) < ord(begin):
                    raise PatternError("a range of a set must go from a character to a later one")
                ranges.append((ord(begin), ord(end)))
            else:
                ranges.append((ord(begin), ord(begin)))
        self.at += 1
        cased = self._cased(Chars(_joined(ranges), kinds, others))
        return replace(cased, negated=negated)

    def _member(self) -> str | Chars:
        character = self._next()
        if character != "\\":
            return character
        character = self._next()
        if character == "b":
            return "\b"
        if character.lower() in _KINDS:
            kind = _KINDS[character.lower()]
            return Chars(kinds=kind) if character.islower() else Chars(others=kind)
        return self._literal(character)

    def _cased(self, chars: Chars) -> Chars:
        """Add the other cases of all characters, if case does not matter."""
        return _in_any_case(chars) if self._any_case else chars

    def _repeated(self, node: Node) -> Node:
        times = self._times()
        if times is None:
            return node
        if isinstance(node, Boundary):
            raise PatternError("\\b and \\B cannot be repeated")
        if width(node) == 0:
            raise PatternError("a group without any character cannot be repeated")
        if self._peek() and self._peek() in "*+?{":
            raise PatternError("a repetition follows another one; put the first one in a group")
        least, most = times
        if most < least:
            raise PatternError(f"{{{least},{most}}} repeats at least more than at most")
        if most * max(1, width(node)) > MAX_WIDTH:
            raise PatternError(f"it repeats more than {MAX_WIDTH} characters; repeat less")
        return Repeat(node, least, most)

    def _times(self) -> tuple[int, int] | None:
        if self._takes("?"):
            return 0, 1
        for sign, instead in (("*", "{0,20}"), ("+", "{1,20}")):
            if self._takes(sign):
                self._endless(sign, instead)
        if not self._takes("{"):
            return None
        inside, found, _ = self._source[self.at :].partition("}")
        least, comma, most = inside.partition(",")
        numbers = all(text.isascii() and (text.isdigit() or not text) for text in (least, most))
        if not found or not numbers or len(inside) > 12 or not (least or most):
            raise PatternError("{ begins a repetition such as {2} or {1,5}; write \\{ for a brace")
        self.at += len(inside) + 1
        if comma and not most:
            self._endless(f"{{{least},}}", f"{{{least},{int(least) + 20}}}")
        return int(least or 0), int(most if comma else least)

    def _endless(self, sign: str, instead: str) -> NoReturn:
        raise PatternError(
            f"{sign} repeats without a limit, so that text would be held back without a limit; "
            f"write a number, such as {instead}"
        )


@functools.lru_cache(maxsize=4096)
def _in_any_case(chars: Chars) -> Chars:
    """Return a set with the other cases of its characters."""
    more = list(chars.ranges)
    for first, last in chars.ranges:
        if last - first < _FEW:
            for code in range(first, last + 1):
                folded = code + 32 if ord("A") <= code <= ord("Z") else foldings().get(code, code)
                more += [(other, other) for other in (folded, *cases().get(folded, ()))]
        else:
            for folded, others in cases().items():
                if any(first <= code <= last for code in (folded, *others)):
                    more += [(code, code) for code in (folded, *others)]
    return replace(chars, ranges=_joined(more))


def _joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges in ascending order, with those joined that touch."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)
