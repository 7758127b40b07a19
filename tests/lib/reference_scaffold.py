"""The readable definition of how control texts in a user's text are kept from being control tokens.

It uses regular expressions and sets of all pieces. Nothing here is fast; the C code must give
exactly the same result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise


class ReferenceScaffold:
    """Marks a model's control texts in a user's text and finds them in a rendered prompt."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        # Longest first: if one control text is the beginning of another, the longer one counts.
        self._texts = sorted({t for t in control_texts if t}, key=len, reverse=True)
        self._any = "|".join(map(re.escape, self._texts)) or "(?!)"
        # A lookahead consumes nothing, so overlapping matches are found too.
        self._starts = re.compile(f"(?={self._any})")
        self._beginnings = {text[:n] for text in self._texts for n in range(1, len(text))}
        self._endings = {text[-n:] for text in self._texts for n in range(1, len(text))}
        self._longest = len(self._texts[0]) if self._texts else 0

    def mark(self, text: str, mark: str) -> tuple[str, bool]:
        """Return the marked text, and whether it contains a control text."""
        whole = {match.start() + 1 for match in self._starts.finditer(text)}
        places = set(whole)
        lengths = range(1, min(self._longest, len(text) + 1))
        within = any(text in control for control in self._texts)
        if text and (within or any(text[:n] in self._endings for n in lengths)):
            places.add(1)
        places.update(len(text) - n + 1 for n in lengths if text[-n:] in self._beginnings)
        marked = mark.join(text[a:b] for a, b in pairwise([0, *sorted(places), len(text)]))
        return marked, bool(whole)

    def split(self, text: str, mark: str) -> list[tuple[str, bool]]:
        """Return the pieces of a rendered prompt, without the marks."""
        pieces = []
        end = 0
        for match in re.finditer(f"(?:{self._any})(?!{mark})", text):
            if match.start() > end:
                pieces.append((text[end : match.start()].replace(mark, ""), False))
            pieces.append((match[0], True))
            end = match.end()
        if end < len(text):
            pieces.append((text[end:].replace(mark, ""), False))
        return pieces
