"""A source of drafts: the text that the client expects, from the request's ``prediction``."""

from __future__ import annotations

from collections.abc import Sequence

from offgrid.engine.worker.drafts.source import Draft, Drafted

KIND = "prediction"
_ALIGNED = 3
"""After a difference, the prediction is taken up again where its tokens are as many last tokens of
the answer as this, or at once if a single token was replaced."""
_SEARCHED = 256
"""Tokens of the prediction after the last agreement in which the answer's tokens are searched."""


class Prediction:
    """Follows the tokens of a prediction.

    After a difference it searches the answer's last tokens in the rest of the prediction.

    Args:
        tokens: ids of the predicted text, tokenised as the answer would be.

    Attributes:
        accepted: how many tokens of the prediction are in the answer, as far as it was followed.
    """

    costly = False

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._next = 0
        """Index of the predicted token that is expected next."""
        self._agrees = True
        """Whether the last token of the answer was the predicted one."""
        self._read = 0
        """Tokens of the answer that were followed."""
        self.accepted = 0

    @property
    def rejected(self) -> int:
        """How many tokens of the prediction are not in the answer so far."""
        return len(self._tokens) - self.accepted

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return the predicted tokens from the current place; none after a difference until the
        answer is found again."""
        self.follow(sequence)
        tokens = self._tokens[self._next : self._next + most] if self._agrees else []
        return Draft(tokens, KIND)

    def follow(self, sequence: Drafted) -> None:
        """Follow the tokens that were added to the answer since the last call."""
        answered = len(sequence) - sequence.n_prompt
        start = sequence.n_prompt
        for index in range(start + self._read, start + answered):
            self._follow_one(sequence, index)
        self._read = answered

    def _follow_one(self, sequence: Drafted, index: int) -> None:
        token = int(sequence.tokens[index])
        if self._agrees:
            if self._next < len(self._tokens) and token == self._tokens[self._next]:
                self._next += 1
                self.accepted += 1
                return
            self._agrees = False
        self._realign(sequence, index)

    def _realign(self, sequence: Drafted, index: int) -> None:
        """Find the answer's last tokens, up to ``index``, in the rest of the prediction."""
        first = max(sequence.n_prompt, index + 1 - _ALIGNED)
        last = sequence.tokens[first : index + 1].tolist()
        if len(last) < _ALIGNED:
            return
        end = min(len(self._tokens), self._next + _SEARCHED)
        for place in range(self._next, end - _ALIGNED + 1):
            if self._tokens[place : place + _ALIGNED] == last:
                self._next = place + _ALIGNED
                self._agrees = True
                self.accepted += _ALIGNED
                return

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Do nothing: the answer's tokens tell all."""
