"""The texts that a string's schema allows: as regular expressions, and whether there are any.

In a JSON string the compiler enforces patterns, formats and lengths itself. Some models write the
strings of a call without JSON, and then the text itself must match.
"""

from __future__ import annotations

import re
from functools import lru_cache

from offgrid.grammar.document import Json
from offgrid.grammar.formats import PATTERNS
from offgrid.grammar.lookahead import alternatives_of, one_pattern, signs_of
from offgrid.grammar.pattern import ecma_pattern
from offgrid.grammar.regular import Language, Unwritable, read

ANY_TEXT = "(?s:.*)"
MORE_PATTERNS = "patterns"
"""A keyword of this package: a list of patterns that a text must match besides ``pattern``."""
MAX_EXAMINED = 10
"""Strings of a schema for which :func:`is_empty` is called: each may take a tenth of a second."""
_MAX_LENGTH = max(600, *(len(pattern) + 10 for pattern in PATTERNS.values()))
_MAX_STATES = 2_000
_END = re.compile(r"(?<!\\)(?:\\\\)*\$$")
_ANCHORS = re.compile(r"\\[bBAzZ]")


def text_patterns(schema: Json) -> list[str]:
    """Return the regular expressions of Rust's syntax that a whole text must match.

    Args:
        schema: a checked schema with the type ``string`` and no other schema in it.

    Raises:
        Unwritable: a pattern has an anchor that cannot be enforced; the message continues
            "a pattern".
    """
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    found = [] if not low and high is None else [f"(?s:.{{{low},{'' if high is None else high}}})"]
    if schema.get("format") in PATTERNS:
        found.append(PATTERNS[schema["format"]])
    patterns = [schema["pattern"]] if "pattern" in schema else []
    return found + [whole_pattern(one) for one in (*patterns, *schema.get(MORE_PATTERNS, ()))]


def whole_pattern(pattern: str) -> str:
    """Return an expression that a whole text matches if the given pattern is found in it.

    Args:
        pattern: in Rust's syntax, without look-around.

    Raises:
        Unwritable: it has an anchor that cannot be written in another way.
    """
    if not has_inner_anchor(pattern):
        return "|".join(map(_whole, alternatives_of(pattern)))
    try:
        return one_pattern(ecma_pattern(pattern))[1:-1]
    except (Unwritable, RecursionError):
        raise Unwritable(
            "has an anchor in its middle that cannot be enforced in the form of this model's calls"
        ) from None


def has_inner_anchor(pattern: str) -> bool:
    """Whether a pattern, or one of its alternatives, has an anchor that is not at its ends."""
    inner = [_split(one)[1] for one in alternatives_of(pattern)]
    return any({"^", "$"} & {*signs_of(one)} or _ANCHORS.search(one) for one in inner)


def _whole(pattern: str) -> str:
    """Return the expression for a pattern without bars outside of groups and inner anchors."""
    begins, inner, ends = _split(pattern)
    return f"{'' if begins else ANY_TEXT}(?:{inner}){'' if ends else ANY_TEXT}"


def _split(pattern: str) -> tuple[bool, str, bool]:
    """Return whether a pattern begins with an anchor, what is between, and whether it ends so."""
    begins, ends = pattern.startswith("^"), bool(_END.search(pattern))
    return begins, pattern[begins : len(pattern) - ends], ends


def is_empty(schema: Json) -> bool:
    """Whether certainly no text satisfies a schema's pattern, format and length together.

    Args:
        schema: a schema with the type ``string``, whose patterns have ECMA-262's syntax.
    """
    patterns = [schema["pattern"]] if "pattern" in schema else []
    patterns += [
        part["pattern"] for part in schema.get("allOf", ())
        if isinstance(part, dict) and "pattern" in part
    ]  # fmt: skip
    if schema.get("format") in PATTERNS:
        patterns.append(f"^(?:{PATTERNS[schema['format']]})$")
    low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
    high = -1 if high is None else int(high)
    if 0 <= high < low:
        return True
    if len(patterns) + bool(low or high >= 0) < 2:
        return False
    return _none_matches(tuple(patterns), low, high)


@lru_cache(maxsize=256)
def _none_matches(patterns: tuple[str, ...], low: int, high: int) -> bool:
    try:
        parts = [read(pattern, _MAX_LENGTH) for pattern in patterns]
        language = Language(parts)
        wanted = [*map(language.found, parts), language.of_length(low, high)]
        return language.is_empty(language.both(wanted), _MAX_STATES)
    except (Unwritable, RecursionError):
        return False  # it cannot be told here
