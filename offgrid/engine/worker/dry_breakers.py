"""DRY's sequence breakers: from a text to the token sequences that may contain it. Pure.

A token that contains the whole text is a breaker by itself. A token that ends with a beginning of
the text is a breaker together with the tokens of the rest, as in llama.cpp's DRY sampler. Checking
every token for every breaker takes minutes with a large vocabulary, so a :class:`PieceIndex` is
built once, when the model is loaded. ``tests/lib/reference_breakers.py`` does the same without an
index.
"""

from __future__ import annotations

import array
import bisect
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from offgrid.errors import InvalidParameter
from offgrid.sampling.params import MAX_BREAKER_LENGTH

MAX_SEQUENCES = 32_768
"""Most token sequences of all breakers of a request. Each costs some microseconds per choice when
the request starts. The default breakers have fewer than 10,000 in large vocabularies."""
MAX_SAME_HEAD = 512
"""Most sequences that begin with the same token. For every draw, all of them are compared at each
occurrence of the token in the window."""
_KEY_BYTES = 8
"""Bytes at the end of a piece that its sort key contains."""


class PieceIndex:
    """Finds tokens by the bytes that their pieces contain or end with. Threads may share it.

    Building it takes time linear in the bytes of all pieces, except for one sort of 64-bit keys.

    Args:
        pieces: bytes of every token, by id.

    Attributes:
        looked_at: number of tokens that all searches so far have examined; tests use it to bound
            the work.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._text = b"".join(pieces)
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        starts = np.concatenate(([0], np.cumsum(lengths)))
        self._starts = array.array("q", starts.tobytes())  # bisect is slow on NumPy arrays
        keys = _end_keys(self._text, starts[1:], lengths)
        order = np.argsort(keys, kind="stable")
        self._by_end = order.astype(np.int32)
        self._keys = keys[order]
        self.looked_at = 0

    def holding(self, wanted: bytes, most: int) -> set[int]:
        """Return at most ``most + 1`` tokens whose pieces contain ``wanted``."""
        found: set[int] = set()
        at = self._text.find(wanted)
        while at >= 0 and len(found) <= most:
            self.looked_at += 1
            token = bisect.bisect_right(self._starts, at) - 1
            end = self._starts[token + 1]
            if at + len(wanted) <= end:
                found.add(token)
                at = end
            else:  # it begins in one piece and ends in another
                at += 1
            at = self._text.find(wanted, at)
        return found

    def ending(self, wanted: bytes) -> list[tuple[int, list[int]]]:
        """Return the tokens whose pieces end with a beginning of ``wanted``, but not all of it.

        Returns:
            The lengths of such beginnings, ascending, each with its tokens.
        """
        ends = np.arange(1, len(wanted))
        # The last bytes are the most significant; bytes before them may have any value.
        low = _end_keys(wanted, ends, ends)
        free = (8 * (_KEY_BYTES - np.minimum(ends, _KEY_BYTES))).astype(np.uint64)
        high = low | ((np.uint64(1) << free) - np.uint64(1))
        first = np.searchsorted(self._keys, low, side="left")
        last = np.searchsorted(self._keys, high, side="right")
        found = []
        for at in np.flatnonzero(last > first).tolist():
            tokens = self._by_end[first[at] : last[at]]
            if matching := self._matching(tokens, wanted[: at + 1]):
                found.append((at + 1, matching))
        return found

    def _matching(self, tokens: NDArray[np.int32], wanted: bytes) -> list[int]:
        """Return those of the tokens, whose keys match, that also match before the key."""
        self.looked_at += len(tokens)
        starts = np.frombuffer(self._starts, dtype=np.int64)
        long_enough = tokens[starts[tokens + 1] - starts[tokens] >= len(wanted)].tolist()
        if len(wanted) <= _KEY_BYTES:
            return list(long_enough)
        return [t for t in long_enough if self._text.endswith(wanted, 0, self._starts[t + 1])]


def _end_keys(
    text: bytes, ends: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the last bytes before each end as a number, the last byte most significant; 0 for
    missing bytes."""
    data = np.frombuffer(text or b"\0", dtype=np.uint8)
    keys = np.zeros(len(ends), dtype=np.uint64)
    for back in range(_KEY_BYTES):
        there = lengths > back
        found = data[np.where(there, ends - 1 - back, 0)].astype(np.uint64)
        keys |= np.where(there, found, np.uint64(0)) << np.uint64(8 * (_KEY_BYTES - 1 - back))
    return keys


def expand_breakers(
    texts: Sequence[str], index: PieceIndex, tokenize: Callable[[bytes], list[int]]
) -> list[tuple[int, ...]]:
    """Return the token sequences that may contain the texts, in ascending order.

    Args:
        texts: the breakers.
        index: the index of the vocabulary.
        tokenize: returns the token ids of a text, without BOS. For each text it is called less
            often than the longest piece has bytes.

    Raises:
        InvalidParameter: there are too many sequences, or too many begin with the same token. The
            first is detected before any sequence is built.
    """
    found: list[tuple[bytes, set[int], list[tuple[int, list[int]]]]] = []
    left = MAX_SEQUENCES
    for text in texts:
        wanted = text.encode("utf-8")
        whole = index.holding(wanted, left)
        begun = index.ending(wanted)
        if whole:
            begun = [(length, [t for t in heads if t not in whole]) for length, heads in begun]
        left -= len(whole) + sum(len(heads) for _, heads in begun)
        if left < 0:
            raise InvalidParameter(
                f"The breakers up to {text!r} match more than {MAX_SEQUENCES} token sequences of"
                " this model's vocabulary. Use fewer breakers, or ones with rarer first letters.",
                "dry_sequence_breakers",
            )
        found.append((wanted, whole, begun))
    sequences: set[tuple[int, ...]] = set()
    for wanted, whole, begun in found:
        sequences.update((token,) for token in whole)
        for length, heads in begun:
            tail = tuple(tokenize(wanted[length:])[:MAX_BREAKER_LENGTH])
            sequences.update((token, *tail) for token in heads)
    heads_of = Counter(sequence[0] for sequence in sequences)
    if heads_of and max(heads_of.values()) > MAX_SAME_HEAD:
        raise InvalidParameter(
            f"More than {MAX_SAME_HEAD} of the breakers' token sequences begin with the same token."
            " Use fewer breakers, or ones that begin with different letters.",
            "dry_sequence_breakers",
        )
    return sorted(sequences)
