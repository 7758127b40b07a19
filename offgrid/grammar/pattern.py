"""Checks and converts regular expressions before compilation: repetitions and dialect."""

from __future__ import annotations

import re

MAX_REPETITION = 200_000
"""Characters of a pattern with its counted repetitions expanded."""
_COUNT = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")
_TOO_MUCH = 1 << 62
_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|[xu]\{([0-9A-Fa-f]+)\}|([0va]))")
_CONTROL = "asks for a control character, which is not supported"


def repetition(pattern: str) -> int:
    """Return about how many characters a pattern has with ``{m,n}`` expanded.

    Nested repetitions multiply: ``((a{9}){9}){9}`` has 729. An estimate is enough, so the validity
    of the pattern is not checked.
    """
    totals, last, at = [0], 0, 0
    last_brace = pattern.rfind("}")
    # totals: size of each open group up to its last item; last: size of that item.
    while at < len(pattern):
        character = pattern[at]
        count = _COUNT.match(pattern, at) if character == "{" else None
        if count:
            times = max(int(count[1]), int(count[2] or 0), 1)
            last = min(_TOO_MUCH, last * times)
            at = count.end()
            continue
        if character == "(":
            totals[-1] += last
            totals.append(0)
            last, at = 0, at + 1
            continue
        if character == ")" and len(totals) > 1:
            last += totals.pop()
            at += 1
            continue
        totals[-1] += last
        last = 1
        at = _end_of_item(pattern, at, last_brace)
    return sum(totals) + last


def _end_of_item(pattern: str, at: int, last_brace: int) -> int:
    """Return where a character, an escape or a class ends."""
    if pattern[at] == "\\":
        # Do not search after the last brace: each search would scan to the end of the pattern.
        if pattern[at + 2 : at + 3] == "{" and at < last_brace:
            return pattern.index("}", at) + 1
        return at + 2
    if pattern[at] != "[":
        return at + 1
    at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


class PatternError(ValueError):
    """The pattern is not valid in ECMA-262; the message continues a sentence after "a pattern"."""


def rust_pattern(pattern: str) -> str:
    """Convert the pattern of a JSON schema from ECMA-262 to Rust's syntax.

    A class in ECMA-262 has no nested classes and no operators ``&&``, ``--`` and ``~~``.
    """
    parts, at = [], 0
    while at < len(pattern):
        if pattern[at] == "[":
            end, text = _class(pattern, at)
        else:
            end = at + 1 + (pattern[at] == "\\")
            text = pattern[at:end]
            if end > len(pattern):
                raise PatternError("ends in a backslash")
            if _asks_for_control(pattern, at):
                raise PatternError(_CONTROL)
        parts.append(text)
        at = end
    return "".join(parts)


_WIDE = re.compile(r"\[(\[(?:\\.|[^\]\\])*\])&&\[\^\\x01\]\]")


def ecma_pattern(pattern: str) -> str:
    """Convert what :func:`rust_pattern` has made back to ECMA-262's syntax."""
    return _WIDE.sub(lambda match: match[1], pattern).replace("(?s:.)", "[^]")


def _class(pattern: str, at: int) -> tuple[int, str]:
    """Return where a class ends, and its text in Rust's syntax."""
    if pattern.startswith("[^]", at):
        return at + 3, "(?s:.)"
    if pattern.startswith("[]", at):
        raise PatternError("has an empty class")
    parts = ["["]
    at += 1
    others = False
    wide = pattern.startswith("^", at)
    while at < len(pattern) and pattern[at] != "]":
        character = pattern[at]
        code = _CODE.match(pattern, at)
        wide = wide or character == "\0" or (code is not None and _is_nul(code))
        dash = character == "-" and len(parts) > 1 and pattern[at + 1 : at + 2] != "]"
        others = others or not (dash or _asks_for_control(pattern, at))
        if code or character == "\\":
            text = code[0] if code else pattern[at : at + 2]
            parts.append({"\\b": "\\x08", "\\0": "\\x00"}.get(text, text))
            at += len(text)
            continue
        again = character == "-" and parts[-1] == "-"
        parts.append("\\" + character if again or character in "[&~" else character)
        at += 1
    if at >= len(pattern):
        raise PatternError("does not end: unclosed character class")
    if not others:
        raise PatternError(_CONTROL)
    text = "".join(parts) + "]"
    # From a class with all control characters but without quote or backslash, the compiler makes
    # one with both, escaped. No string of an answer contains U+0001, so the class need not.
    return at + 1, f"[{text}&&[^\\x01]]" if wide else text


def _is_nul(code: re.Match[str]) -> bool:
    digits = code[1] or code[2] or code[3]
    return int(digits, 16) == 0 if digits else code[4] == "0"


def _asks_for_control(pattern: str, at: int) -> bool:
    """Return whether a control character without a short JSON escape stands at this place."""
    code = _CODE.match(pattern, at)
    if code:
        digits = code[1] or code[2] or code[3]
        character = chr(min(int(digits, 16), 0xFFFF)) if digits else "\0"
    else:
        character = pattern[at]
    return character == "\x7f" or (character < " " and character not in "\b\t\n\f\r")
