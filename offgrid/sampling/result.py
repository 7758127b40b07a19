"""The results of sampling a token and of scoring a given token."""

from __future__ import annotations

from typing import NamedTuple


class SampleResult(NamedTuple):
    """A sampled token.

    Attributes:
        token: its id.
        logprob: log-softmax of the raw row at the token, or with ``post_sampling`` the logarithm of
            the probability with which the token was sampled; None if no logprobs were requested.
        top_logprobs: the most likely tokens of that distribution as (id, logprob), best first, ties
            lowest id first; with ``post_sampling`` only tokens that could be sampled. The sampled
            token's logprob, if among them, is the identical number.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class TokenScore(NamedTuple):
    """How likely a given token is according to a row.

    Attributes:
        token: its id.
        logprob: log-softmax of the row at the token.
        rank: 1 for the most likely token; equally likely tokens share the better rank.
        top_logprobs: the most likely tokens as (id, logprob), best first, ties lowest id first.
    """

    token: int
    logprob: float
    rank: int
    top_logprobs: tuple[tuple[int, float], ...] = ()
