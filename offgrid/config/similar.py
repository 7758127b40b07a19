"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.6
"""Share of characters that two names must have in common, from 0 to 1."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message, such as ``; did you mean port?``; empty if nothing is like it.

    Case, ``-`` and ``_`` make no difference.
    """
    best = similar(word, known)
    return f"; did you mean {best}?" if best is not None else ""


def similar(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a word; None if none is."""
    names = {_plain(name): name for name in sorted(known, reverse=True)}
    found = difflib.get_close_matches(_plain(word), names, n=1, cutoff=_CUTOFF)
    return names[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").lstrip("_")
