"""Case folding of single characters: the simple folding of Unicode, from Python's own tables."""

from __future__ import annotations

import functools
from array import array

_CASED = (
    (0x80, 0x3400), (0xA640, 0xAC00), (0xFB00, 0xFFFE), (0x10400, 0x10600), (0x10C80, 0x10D00),
    (0x11880, 0x11900), (0x16E40, 0x16EC0), (0x1E900, 0x1E960),
)  # fmt: skip
"""Where letters with a case are, without the large blocks of other scripts."""


def fold_character(character: str) -> str:
    """Return the character that stands for all its cases.

    Characters whose folding has several letters, such as ``ß``, stand for themselves, and their
    capital for them.
    """
    folded = character.casefold()
    if len(folded) == 1:
        return folded
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character


def fold(text: str) -> str:
    """Return a text with every character folded; its length stays the same."""
    return "".join(map(fold_character, text))


@functools.cache
def foldings() -> dict[int, int]:
    """Return what folding changes, beyond ASCII: code point -> code point."""
    found = {}
    for first, end in _CASED:
        for code in range(first, end):
            folded = ord(fold_character(chr(code)))
            if folded != code:
                found[code] = folded
    return found


@functools.cache
def fold_table() -> bytes:
    """Return :func:`foldings` as uint32 pairs in ascending order."""
    return array("I", [code for pair in sorted(foldings().items()) for code in pair]).tobytes()


@functools.cache
def cases() -> dict[int, tuple[int, ...]]:
    """Return all characters that have cases: folded code point -> the others of its group."""
    groups: dict[int, list[int]] = {code: [code - 32] for code in range(ord("a"), ord("z") + 1)}
    for code, folded in foldings().items():
        groups.setdefault(folded, []).append(code)
    return {folded: tuple(codes) for folded, codes in groups.items()}
