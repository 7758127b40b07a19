"""DRY's breakers without an index: compare each breaker with every token of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offgrid.sampling.params import MAX_BREAKER_LENGTH


def expand_breaker(
    text: str, pieces: Sequence[bytes], tokenize: Callable[[bytes], list[int]]
) -> frozenset[tuple[int, ...]]:
    """Return the token sequences that correspond to a breaker text."""
    wanted = text.encode("utf-8")
    tails = {
        length: tuple(tokenize(wanted[length:])[:MAX_BREAKER_LENGTH])
        for length in range(1, len(wanted))
    }
    found: set[tuple[int, ...]] = set()
    for token, piece in enumerate(pieces):
        if wanted in piece:
            found.add((token,))
            continue
        for length, tail in tails.items():
            if piece.endswith(wanted[:length]):
                found.add((token, *tail))
    return frozenset(found)
