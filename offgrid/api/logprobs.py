"""Logprobs as the API lists them: chat's entries, and vLLM's ``prompt_logprobs``."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from offgrid.api.shapes import Json
from offgrid.engine.protocol.events import PromptToken, TokenLogprob


def logprob_entries(tokens: list[TokenLogprob]) -> list[Json]:
    """Return tokens with their logprobs and alternatives as the API lists them."""
    return [
        {
            **_entry(token.piece, token.logprob),
            "top_logprobs": [_entry(piece, logprob) for piece, logprob in token.top],
        }
        for token in tokens
    ]


def _entry(piece: bytes, logprob: float) -> Json:
    text, data = _told(piece)
    return {"token": text, "logprob": logprob, "bytes": data}


@functools.lru_cache(maxsize=4096)
def _told(piece: bytes) -> tuple[str, list[int]]:
    """Return a token's text and bytes as the API lists them. Cached: the same tokens recur."""
    return piece.decode("utf-8", "replace"), list(piece)


def prompt_logprobs(tokens: Iterable[PromptToken], n_top: int) -> list[Any]:
    """Return vLLM's ``prompt_logprobs``: for each token a map from ids, null for the first."""
    return [None if token.logprob is None else _by_id(token, n_top) for token in tokens]


def _by_id(token: PromptToken, n_top: int) -> dict[str, dict[str, Any]]:
    entries = [(*entry, rank) for rank, entry in enumerate(token.top[:n_top], 1)]
    if all(id != token.token for id, *_ in entries):
        entries.append((token.token, token.piece, token.logprob or 0.0, token.rank or 0))
    return {
        str(id): {"logprob": logprob, "rank": rank, "decoded_token": _text(piece)}
        for id, piece, logprob, rank in entries
    }


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
