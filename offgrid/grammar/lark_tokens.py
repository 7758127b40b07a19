"""The tokens of a grammar in Lark, one after the other.

Two readers use it, for two dialects: :mod:`offgrid.grammar.lark` for llguidance's, and
:mod:`offgrid.api.responses.lark` for that of Lark itself.
"""

from __future__ import annotations

import re


class Unread(Exception):
    """The grammar has syntax that the reader does not support."""


class LarkTokens:
    """Splits a source into tokens and hands them out: pairs of a kind and a text.

    A token of the kind ``line`` follows the last one. Of several line ends with nothing between
    them, only the first is a token: readers look beyond it.

    Args:
        source: the grammar.
        token: matches one token; the name of the group that matches is its kind. Tokens of the
            kind ``skip`` are left out.

    Raises:
        Unread: at some place of the source, no token matches.
    """

    def __init__(self, source: str, token: re.Pattern[str]) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(source):
            match = token.match(source, at)
            if match is None or match.lastgroup is None:
                raise Unread
            self._add(match.lastgroup, match[0])
            at = match.end()
        self._add("line", "\n")
        self.at = 0
        """The number of the next token; may be set to go back."""

    def _add(self, kind: str, text: str) -> None:
        again = kind == "line" and self._tokens[-1:] and self._tokens[-1][0] == "line"
        if kind != "skip" and not again:
            self._tokens.append((kind, text))

    @property
    def left(self) -> bool:
        """Whether there are further tokens."""
        return self.at < len(self._tokens)

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Return the next token, or one after it; of the kind ``end`` if there is none."""
        at = self.at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        """Return the next token, and go on to the one after it."""
        token = self.peek()
        self.at += 1
        return token

    def take(self, *signs: str) -> bool:
        """Go on to the token after the next one if that is one of some signs; return whether."""
        kind, text = self.peek()
        found = kind == "sign" and text in signs
        self.at += found
        return found
