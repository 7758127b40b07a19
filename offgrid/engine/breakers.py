"""DRY's sequence breakers: from a text to the token sequences in which it can stand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offgrid.sampling.params import MAX_BREAKER_LENGTH


def expand_breaker(
    text: str, pieces: Sequence[bytes], tokenize: Callable[[bytes], list[int]]
) -> frozenset[tuple[int, ...]]:
    """Return the token sequences that a breaker text is, as llama.cpp's DRY sampler makes them.

    A token that holds the whole text is a breaker by itself; one that ends with a beginning of it
    is one together with the tokens of the rest.

    Args:
        text: the breaker.
        pieces: bytes of every token, by id.
        tokenize: tokens of a text, without any that begin a sequence.
    """
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
