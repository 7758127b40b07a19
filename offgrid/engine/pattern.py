"""How often a regular expression's counted repetitions repeat, before anything compiles it."""

from __future__ import annotations

import re

MAX_REPETITION = 200_000
"""Characters of a pattern with its counted repetitions written out."""
_COUNT = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")
_TOO_MUCH = 1 << 62


def repetition(pattern: str) -> int:
    """Return about how many characters a pattern has with ``{m,n}`` written out.

    Nested repetitions multiply: ``((a{9}){9}){9}`` has 729. A rough reading is enough; whether the
    pattern is a valid one is not looked at.
    """
    totals, last, at = [0], 0, 0
    # totals: what each open group holds up to its last item; last: that item.
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
        at = _end_of_item(pattern, at)
    return sum(totals) + last


def _end_of_item(pattern: str, at: int) -> int:
    """Where a character, an escape or a class ends."""
    if pattern[at] == "\\":
        brace = pattern.find("}", at) if pattern[at + 2 : at + 3] == "{" else -1
        return brace + 1 if brace > 0 else at + 2
    if pattern[at] != "[":
        return at + 1
    at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1
