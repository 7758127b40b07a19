"""What a draw gives, and what the scoring of a given token gives."""

from __future__ import annotations

from typing import NamedTuple


class SampleResult(NamedTuple):
    """A drawn token.

    Attributes:
        token: its id.
        logprob: log-softmax of the raw row at the token, or with ``post_sampling`` the logarithm of
            the probability that it was drawn with; None when no logprobs were asked for.
        top_logprobs: the most likely tokens of that distribution as (id, logprob), best first, ties
            lowest id first; after sampling only those that could be drawn. The drawn token's
            logprob, if among them, is the identical number.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class TokenScore(NamedTuple):
    """How likely a given token is after a row.

    Attributes:
        token: its id.
        logprob: log-softmax of the row at the token.
        rank: 1 for the most likely token; equals share the better rank.
        top_logprobs: the most likely tokens as (id, logprob), best first, ties lowest id first.
    """

    token: int
    logprob: float
    rank: int
    top_logprobs: tuple[tuple[int, float], ...] = ()
