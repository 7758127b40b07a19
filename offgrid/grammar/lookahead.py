"""Look-aheads of patterns, written as patterns and grammars without them.

``^(?!A)B$`` matches the texts of ``B`` that do not begin with ``A``. In a grammar llguidance's
operators ``&`` and ``~`` say that. A JSON schema's ``pattern`` has only ``&`` (``allOf``), so the
texts that do not begin with ``A`` are written as a further pattern; see
:mod:`offgrid.grammar.regular`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from offgrid.grammar.regular import MAX_LENGTH, Language, Unwritable, read

MAX_LOOK_AHEADS = 8
"""Look-aheads of one pattern."""
_ANY = "(?s:.*)"
_ESCAPED = re.compile(r"(\\[^\n\r\t])|\\?[/\n\r\t]")


@dataclass(frozen=True)
class LookAhead:
    """The pattern in a look-ahead, and whether it must not match."""

    text: str
    negative: bool


def has_look_ahead(pattern: str) -> bool:
    """Return whether a pattern has a look-ahead; most have none."""
    if "(?=" not in pattern and "(?!" not in pattern:
        return False
    # An escaped bracket, or one in a class, begins none.
    return any(pattern.startswith(("(?=", "(?!"), at) for at, _ in _places(pattern, 0))


@lru_cache(maxsize=256)
def patterns_without_look_ahead(pattern: str) -> tuple[str, ...]:
    """Return patterns of ECMA-262 without look-aheads that together match the same texts.

    Those at the beginning become patterns of their own, so that what follows them may be as long
    as any pattern. A pattern with one elsewhere, such as pydantic's for decimals of limited length,
    is written anew.

    Raises:
        Unwritable: a look-ahead is not supported or too complex; the message continues "a pattern".
    """
    if len(pattern) > MAX_LENGTH:
        raise Unwritable(f"with a look-ahead may have at most {MAX_LENGTH} characters")
    ahead, rest = _split(pattern)
    if not pattern.startswith("^") or len(alternatives_of(rest)) > 1:
        return (one_pattern(pattern),)
    found = [one_pattern(f"^{rest}") if has_look_ahead(rest) else f"^{rest}"] if rest else []
    for look in ahead:
        if look.negative:
            part = read(f"^(?!{look.text})")
            language = Language([part])
            found.append(language.pattern(language.found(part)))
        else:
            seen = f"^(?:{look.text.lstrip('^')})"
            found.append(one_pattern(seen) if has_look_ahead(seen) else seen)
    return tuple(found)


@lru_cache(maxsize=256)
def one_pattern(pattern: str) -> str:
    """Return a single anchored pattern without look-aheads that matches the same texts.

    Raises:
        Unwritable: as :func:`patterns_without_look_ahead`.
    """
    part = read(pattern)
    language = Language([part])
    return language.pattern(language.found(part))


def found_in(pattern: str) -> Callable[[str], bool]:
    """Return a function that says whether a pattern is found in a text. Not thread-safe.

    What it has learnt of a pattern serves all texts. It raises :class:`Unwritable` for a text if
    the pattern is too complex.

    Raises:
        Unwritable: the pattern uses syntax that is not supported here.
    """
    part = read(pattern)
    language = Language([part])
    found = language.found(part)
    return lambda text: language.matches(found, text)


def begins_with_look_ahead(pattern: str) -> bool:
    """Return whether a regular expression, or one of its alternatives, begins with a look-ahead."""
    if not has_look_ahead(pattern):
        return False
    starts = (one.lstrip("^") for one in alternatives_of(pattern))
    return any(start.startswith(("(?=", "(?!")) for start in starts)


def lark_terminal(pattern: str) -> str:
    """Return a terminal's definition in Lark for a regular expression of Rust's syntax with
    look-aheads at its beginning, or at the beginning of its alternatives.

    Raises:
        Unwritable: there are too many look-aheads, or an anchor in one of them cannot be written.
    """
    return " | ".join(_terminal(one) for one in alternatives_of(pattern))


def _terminal(pattern: str) -> str:
    ahead, rest = _split(pattern)
    parts = [f"/(?:{_in_slashes(rest)})/"]
    for look in ahead:
        seen = " | ".join(map(_seen, alternatives_of(look.text)))
        parts.append(f"~({seen})" if look.negative else f"({seen})")
    return " & ".join(parts)


def _seen(pattern: str) -> str:
    """Return a terminal for the texts that begin with a pattern, which may end in ``$``."""
    text = pattern.lstrip("^")
    ends = text.endswith("$") and not _is_escaped(text, len(text) - 1)
    text = text[:-1] if ends else text
    if any(character in "^$" for character in signs_of(text)):
        raise Unwritable(
            "has an anchor in the middle of a look-ahead; only ^ at its beginning and $ at its end"
            " are supported"
        )
    return f"/(?:{_in_slashes(text)}){'' if ends else _ANY}/"


def _in_slashes(pattern: str) -> str:
    """Return a regular expression as it is written between slashes in Lark."""
    written = {"/": "\\/", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return _ESCAPED.sub(lambda found: found[1] or written[found[0][-1]], pattern)


# --- splitting --------------------------------------------------------------------------------


def _split(pattern: str) -> tuple[list[LookAhead], str]:
    """Return the look-aheads at the beginning, and the pattern after them without anchor."""
    ahead: list[LookAhead] = []
    at = 0
    while True:
        while pattern.startswith("^", at):
            at += 1
        if not pattern.startswith(("(?=", "(?!"), at):
            return ahead, pattern[at:]
        end = _closing(pattern, at)
        ahead.append(LookAhead(pattern[at + 3 : end], pattern[at + 2] == "!"))
        if len(ahead) > MAX_LOOK_AHEADS:
            raise Unwritable(f"has more than {MAX_LOOK_AHEADS} look-aheads")
        at = end + 1


def _closing(pattern: str, begin: int) -> int:
    """Return the index of the bracket that closes the group at ``begin``."""
    depth = 0
    for at, character in _places(pattern, begin):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at
    raise Unwritable("has an unmatched (")


def alternatives_of(pattern: str) -> list[str]:
    """Split a pattern at the bars outside of groups."""
    found: list[str] = []
    depth = begin = 0
    for at, character in _places(pattern, 0):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            found.append(pattern[begin:at])
            begin = at + 1
    return [*found, pattern[begin:]]


def signs_of(pattern: str) -> list[str]:
    """Return the characters of a pattern without escapes and what stands in classes."""
    return [character for _, character in _places(pattern, 0)]


def _places(pattern: str, at: int) -> list[tuple[int, str]]:
    """Return the characters with their places, without escapes and what stands in classes."""
    found: list[tuple[int, str]] = []
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
        elif pattern[at] == "[":
            # As in ECMA-262: "]" ends a class also directly after its beginning.
            at += 1
            while at < len(pattern) and pattern[at] != "]":
                at += 2 if pattern[at] == "\\" else 1
            at += 1
        else:
            found.append((at, pattern[at]))
            at += 1
    return found


def _is_escaped(text: str, at: int) -> bool:
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
