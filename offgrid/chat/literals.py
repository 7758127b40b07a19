"""Matching of fixed texts with free white space, and of the heads of calls, on incomplete text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MORE = -1
"""The text is too short to decide."""
FAILED = -2
MAX_SPACE = 64
"""Characters of white space within a fixed text. A bound keeps repeated matching cheap."""
MAX_HEAD = 256
"""Characters of a message's header: more than any valid one has."""
MAX_FIELD = 128
"""Characters of a name, an identifier or a number in a call's head."""

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_PARTS = {"name": _NAME, "id": _NAME | {":"}, "n": frozenset("0123456789")}
_FIELD = re.compile(r"\{(name|id|n)\}")


def skip_space(text: str, start: int = 0) -> int:
    """Return the index of the first character that is not white space."""
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def begins(text: str, start: int, atom: str) -> int:
    """Return the index after ``atom`` at ``start``, :data:`MORE` or :data:`FAILED`."""
    if text.startswith(atom, start):
        return start + len(atom)
    # Only the end of the text may be an incomplete atom.
    return MORE if atom.startswith(text[start : start + len(atom)]) else FAILED


class Literal:
    """A fixed text. White space within it and before it may be missing or differ."""

    def __init__(self, text: str | Iterable[str]) -> None:
        self.atoms = tuple(text.split() if isinstance(text, str) else text)

    def match(self, text: str, start: int = 0) -> int:
        """Return the index after the literal in ``text``, :data:`MORE` or :data:`FAILED`."""
        for atom in self.atoms:
            begin = skip_space(text, start)
            if begin - start > MAX_SPACE:
                return FAILED
            start = begins(text, begin, atom)
            if start < 0:
                break
        return start


class Head:
    """A call's head up to its end: fixed texts around ``{name}``, ``{id}`` and ``{n}``."""

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str]] = []
        for index, piece in enumerate(_FIELD.split(text)):
            if index % 2:
                self._parts.append((piece, ""))
            else:
                self._parts += [("", atom) for atom in piece.split()]

    def match(self, text: str) -> tuple[int, str]:
        """Return the index after the head, :data:`MORE` or :data:`FAILED`, and the name."""
        position, name = 0, ""
        for field, atom in self._parts:
            begin = skip_space(text, position)
            if begin - position > MAX_SPACE:
                return FAILED, ""
            if not field:
                position = begins(text, begin, atom)
                if position < 0:
                    return position, ""
                continue
            position = begin
            while position < len(text) and text[position] in _PARTS[field]:
                position += 1
            if position - begin > MAX_FIELD or (position == begin < len(text) and field != "id"):
                return FAILED, ""
            if position == len(text):
                return MORE, ""
            name = text[begin:position] if field == "name" else name
        return position, name


@lru_cache(maxsize=256)
def any_of(markers: frozenset[str], line_starts: bool = False) -> re.Pattern[str]:
    """Return a pattern that finds the first of some markers.

    It also finds the beginning of a marker at the end of the text: the group ``held``. Its result
    is final, whatever follows: a marker that begins a longer one is held at the end. With
    ``line_starts`` it finds a line that begins with a bracket: the group ``line`` is the text
    before the bracket.
    """
    ordered = sorted(markers, key=len, reverse=True)
    whole = "|".join(map(re.escape, ordered)) or "(?!)"
    beginnings = sorted(
        {marker[:size] for marker in ordered for size in range(1, len(marker))}, key=len,
        reverse=True,
    )  # fmt: skip
    held = "|".join(map(re.escape, beginnings)) or "(?!)"
    line = r"(?P<line>\n[ \t]{0,16})(?=[{\[])|" if line_starts else ""
    line_held = r"|\n[ \t]{0,16}" if line_starts else ""
    return re.compile(f"(?P<held>(?:{held}{line_held})\\Z)|{line}(?P<marker>{whole})")


def first_atoms(texts: Iterable[str]) -> frozenset[str]:
    """Return the first atom of each text that has one."""
    return frozenset(text.split()[0] for text in texts if text.strip())
