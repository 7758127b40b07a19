"""A source of drafts: what followed the answer's last tokens where they occurred before.

This is known as prompt lookup. Answers that quote, translate code or repeat a structure contain
long runs of tokens that are in the prompt, or earlier in the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.drafts.source import Draft, Drafted

NGRAM = 3
"""Tokens that must agree before anything is proposed."""
LONGEST = 16
"""Tokens up to which matches are compared: a longer one is as good."""
_CANDIDATES = 8
"""Latest occurrences of the last tokens that are compared."""
_NONE = -1
_HASH = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint64)
_KINDS = {
    length: f"lookup {least}"
    for least, end in ((3, 4), (4, 6), (6, 10), (10, LONGEST + 1))
    for length in range(least, end)
}
"""Length of the match -> the kind of the draft: long matches are accepted more often."""
_RESUMED = "lookup resumed"
_RESUMED_AFTER = 8
"""Tokens that must have followed a match before a single other token counts as a replacement."""


class Lookup:
    """Finds earlier occurrences of a sequence's last tokens.

    A hash table holds the latest place of each n-gram, and a second array the place before it, so
    adding a token and finding a match take constant time, and the memory is linear: about 12 bytes
    for each token that the sequence can have.
    """

    costly = False

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._bits = 0
        self._latest = np.empty(0, dtype=np.int32)
        """Hash of an n-gram -> index after its latest occurrence."""
        self._before = np.empty(0, dtype=np.int32)
        """Index after an n-gram -> index after the occurrence before it."""
        self._read = 0
        """Tokens in the index."""
        self._followed = 0
        """Tokens of the sequence that were compared with the latest match."""
        self._place = _NONE
        """Index of the token that is expected next, if the latest match goes on."""
        self._run = 0
        """How many tokens have followed it."""
        self._missed = 0
        """How many did not."""

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return what followed the longest match, the latest one among equals.

        If no match is long enough because the answer has replaced a token, the match before goes on
        after that token.
        """
        self._follow(sequence)
        place, length = self._match(sequence)
        kind = _KINDS.get(length, _RESUMED)
        if place >= 0:
            self._run = length if self._missed else max(self._run, length)
            self._place, self._missed = place, 0
        elif self._place >= 0 and self._missed == 1 and self._run >= _RESUMED_AFTER:
            place = self._place
        else:
            self._place = _NONE
            return Draft([], "")
        tokens = sequence.tokens[place : min(place + most, len(sequence))].tolist()
        for count, token in enumerate(tokens):
            if token < 0:  # a position of an image is no token that could be sampled
                tokens = tokens[:count]
                break
        return Draft(tokens, kind)

    def rewound(self) -> None:
        """Forget everything: the index is built again."""
        self._start()

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Do nothing: the sequence's tokens tell all."""

    def _follow(self, sequence: Drafted) -> None:
        """Compare the tokens that were added with those that were expected."""
        end = len(sequence)
        for token in sequence.tokens[self._followed : end].tolist() if self._place >= 0 else ():
            if token == sequence.tokens[self._place]:
                self._run += 1
            else:
                self._missed += 1
            self._place += 1
        self._followed = end

    def _match(self, sequence: Drafted) -> tuple[int, int]:
        """Return the index of the token after the best match, and the length of the match."""
        end = len(sequence)
        best, length = _NONE, NGRAM - 1
        if end <= NGRAM:
            return best, length
        self._extend(sequence, end)
        tokens = sequence.tokens
        last = tokens[max(0, end - LONGEST) : end].tolist()
        if min(last[-NGRAM:]) < 0:
            return best, length
        place = int(self._latest[self._slot(last[-NGRAM:])])
        for _ in range(_CANDIDATES):
            if place < NGRAM:
                break
            there = tokens[max(0, place - LONGEST) : place].tolist()
            agreeing = _common_end(last, there)
            if agreeing > length:
                best, length = place, agreeing
            if length >= LONGEST:
                break
            place = int(self._before[place])
        return best, length

    def _extend(self, sequence: Drafted, end: int) -> None:
        """Add the n-grams that end before the last token; that one has no token after it yet."""
        if self._read == 0:
            room = len(sequence.tokens)
            self._bits = max(8, room.bit_length())
            self._latest = np.full(1 << self._bits, _NONE, dtype=np.int32)
            self._before = np.full(room + 1, _NONE, dtype=np.int32)
            self._read = NGRAM - 1
        first, tokens = self._read, sequence.tokens
        if end - first > 64:
            self._extend_many(tokens[first - NGRAM + 1 : end - 1], first + 1)
        else:
            latest, before = self._latest.data, self._before.data
            for place in range(first + 1, end):
                slot = self._slot(tokens[place - NGRAM : place].tolist())
                before[place] = latest[slot]
                latest[slot] = place
        self._read = max(first, end - 1)

    def _extend_many(self, tokens: NDArray[np.int32], start: int) -> None:
        """Add all n-grams of a text; the first of them ends before index ``start``."""
        grams = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), NGRAM)
        slots = ((grams * _HASH).sum(axis=1) & 0xFFFFFFFF) >> np.uint64(32 - self._bits)
        places = np.arange(start, start + len(slots), dtype=np.int32)
        order = np.argsort(slots, kind="stable")
        slots, places = slots[order], places[order]
        first = np.ones(len(slots), dtype=bool)
        first[1:] = slots[1:] != slots[:-1]
        before = np.empty_like(places)
        before[1:] = places[:-1]
        before[first] = self._latest[slots[first]]
        self._before[places] = before
        last = np.ones(len(slots), dtype=bool)
        last[:-1] = first[1:]
        self._latest[slots[last]] = places[last]

    def _slot(self, gram: list[int]) -> int:
        a, b, c = gram
        mixed = (a * 0x9E3779B1 + b * 0x85EBCA77 + c * 0xC2B2AE3D) & 0xFFFFFFFF
        return mixed >> (32 - self._bits)


def _common_end(a: list[int], b: list[int]) -> int:
    """Return how many tokens at the end of two lists agree."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count
