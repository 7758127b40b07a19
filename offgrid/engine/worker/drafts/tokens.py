"""Tokens of a text that continues an answer, not of one that begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

_CACHED = 4096
"""Texts. Those of schemas are short and come again."""
_BEFORE = "\n"
"""Put before a text that the tokeniser would begin with a blank."""


class HasTokenizer(Protocol):
    """The part of :class:`~offgrid.engine.worker.llama.model.Model` that is used here."""

    def tokenize_plain(self, text: str) -> Any:
        """Return the token ids of a text alone."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token."""


def continuing(model: HasTokenizer, text: str) -> list[int]:
    """Return token ids whose pieces are exactly the text; none if the tokeniser gives none.

    Some tokenisers put a blank before a text. It belongs only to texts that begin.
    """
    tokens: list[int] = model.tokenize_plain(text).tolist()
    if _joined(model, tokens) == text.encode("utf-8"):
        return tokens
    tokens = model.tokenize_plain(_BEFORE + text).tolist()
    for count in range(1, len(tokens)):
        if model.piece(tokens[count - 1]).endswith(_BEFORE.encode()):
            rest = tokens[count:]
            return rest if _joined(model, rest) == text.encode("utf-8") else []
    return []


def _joined(model: HasTokenizer, tokens: list[int]) -> bytes:
    return b"".join(map(model.piece, tokens))


def remembering(model: HasTokenizer) -> Callable[[bytes], tuple[int, ...]]:
    """Return a function that does the same for short texts, and remembers the latest ones."""

    @lru_cache(maxsize=_CACHED)
    def tokenize(text: bytes) -> tuple[int, ...]:
        return tuple(continuing(model, text.decode("utf-8", "ignore")))

    return tokenize
