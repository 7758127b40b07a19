"""A source of drafts: the text that the client expects, from the request's ``prediction``. Pure.

A prediction is a text that the client expects the answer to repeat in large parts, as OpenAI's
predicted outputs. As long as the answer repeats it, the prediction's next tokens are a good draft.
When the answer leaves the prediction, its most recent tokens are looked for in the prediction, and
the draft continues after them.

The counts that ``usage`` reports depend on the answer and the prediction alone, never on how many
tokens were drafted: they are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.drafts.source import Draft, Drafted

KIND = "prediction"
FOUND = "prediction found"
"""Kind of a draft after a place that was found and not yet followed for long. Such places are often
wrong, which must not spoil the trust in those that were followed."""
LEAST = 2
"""Tokens at the end of the answer that must be found in the prediction before it is followed again.
A single token is often found by chance."""
_LONGEST = 16
"""Most tokens that are compared to choose among several places."""
_NEAR = 32
"""Most places that are compared before the last known one, and after it: in a prediction that
repeats itself, looking at all of them would take time that grows with its length."""
_FIRM = 4
"""Tokens that must be followed in a row before a place counts as known."""


class PredictedText:
    """The tokens of a prediction, shared by all choices of a request.

    Args:
        tokens: its token ids, int32.
        n_vocab: number of tokens of the vocabulary.
    """

    __slots__ = ("_keys", "_n_vocab", "_places", "tokens")

    def __init__(self, tokens: NDArray[np.int32], n_vocab: int) -> None:
        self.tokens: list[int] = tokens.tolist()
        self._n_vocab = n_vocab
        pairs = tokens[:-1].astype(np.int64) * n_vocab + tokens[1:]
        order = np.argsort(pairs, kind="stable")
        self._keys = pairs[order]
        self._places = order + LEAST

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    def after(self, first: int, second: int, middle: int) -> list[int]:
        """Return the indices before which the prediction has two tokens, in ascending order: the
        nearest :data:`_NEAR` up to ``middle``, and after it."""
        key = first * self._n_vocab + second
        low, high = np.searchsorted(self._keys, (key, key + 1))
        places = self._places[low:high]
        at = int(np.searchsorted(places, middle, side="right"))
        found: list[int] = places[max(0, at - _NEAR) : at + _NEAR].tolist()
        return found


class Prediction:
    """Follows one answer through the prediction.

    Attributes:
        at: index of the token that is expected next; None while the answer does not follow.
        accepted: tokens of the prediction that the answer contains so far.
    """

    __slots__ = ("_answer", "_found", "_known", "_read", "_run", "_text", "_used", "accepted", "at")

    costly = False

    def __init__(self, text: PredictedText) -> None:
        self._text = text
        self._start()

    def _start(self) -> None:
        self._read = 0
        """Tokens of the answer that were followed."""
        self._answer: list[int] = []
        """The last tokens of the answer."""
        self._used = bytearray(len(self._text))
        """For each token of the prediction whether the answer contains it."""
        self._found = 0
        """Tokens by which the place was found. They count as soon as another one follows."""
        self._run = 0
        """Tokens that were followed in a row."""
        self._known = 0
        """The last place that is certain."""
        self.at: int | None = 0
        self.accepted = 0

    @property
    def rejected(self) -> int:
        """Tokens of the prediction that the answer does not contain so far."""
        return len(self._used) - self.accepted

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return the tokens that are expected next; none while the answer does not follow."""
        self.follow(sequence)
        at = self.at
        kind = KIND if self._known == at else FOUND
        return Draft([] if at is None else self._text.tokens[at : at + most], kind)

    def rewound(self) -> None:
        """Follow the answer from its beginning."""
        self._start()

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Do nothing: the answer's tokens tell what was accepted."""

    def follow(self, sequence: Drafted) -> None:
        """Follow the tokens that were added to the answer since the last call."""
        begin = sequence.n_prompt + self._read
        self._read = len(sequence) - sequence.n_prompt
        for token in sequence.tokens[begin : len(sequence)].tolist():
            self._follow_one(token)

    def _follow_one(self, token: int) -> None:
        self._answer = [*self._answer[1 - _LONGEST :], token]
        at, tokens = self.at, self._text.tokens
        if at is not None and at < len(tokens) and tokens[at] == token:
            self._use(at - self._found, at + 1)
            self._found = 0
            self._run += 1
            self.at = at + 1
            if self._run >= _FIRM or self._known == at:
                self._known = self.at
        else:
            self._run = 0
            self.at = self._find()
            self._found = LEAST

    def _use(self, begin: int, end: int) -> None:
        self.accepted += self._used.count(0, begin, end)
        self._used[begin:end] = b"\1" * (end - begin)

    def _find(self) -> int | None:
        """Return the place after the answer's last tokens: the one with the longest match; among
        equals the nearest one after the last certain place, or else at or before it."""
        if len(self._answer) < LEAST:
            return None
        near = self._text.after(self._answer[-2], self._answer[-1], self._known)
        return min(near, key=self._rank, default=None)

    def _rank(self, place: int) -> tuple[int, bool, int]:
        tokens, answer = self._text.tokens, self._answer
        most = min(len(answer), place)
        length = LEAST
        while length < most and tokens[place - length - 1] == answer[-length - 1]:
            length += 1
        return -length, place <= self._known, abs(place - self._known)
