"""Scores: the logprobs of the tokens of a text, or of its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offgrid.api.completions.shapes import TextLogprobs


@dataclass(frozen=True)
class TokenScore:
    """A token of a text.

    Attributes:
        text: its text; bytes that are no characters by themselves have the form ``bytes:\\xe3``.
        logprob: its logprob after the tokens before it.
        greedy: whether it is the likeliest token there.
    """

    text: str
    logprob: float
    greedy: bool


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text, or a continuation after a text.

    Attributes:
        text: the text that is scored.
        tokens: its tokens. The first token of a text has no token before it, and is left out.
    """

    text: str
    tokens: tuple[TokenScore, ...]

    @property
    def logprob(self) -> float:
        """The logprob of the text: the sum over its tokens."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def mean(self) -> float:
        """The mean logprob of a token; 0 for no tokens."""
        return self.logprob / max(1, len(self.tokens))

    @property
    def perplexity(self) -> float:
        """``exp(-mean)``."""
        return math.exp(-self.mean)

    @property
    def greedy(self) -> bool:
        """Whether the model would write exactly this at temperature 0."""
        return all(token.greedy for token in self.tokens)


def scored(logprobs: TextLogprobs, text: str, begin: int) -> Score:
    """Return the score of a text from its character ``begin`` on.

    A token that begins before that and ends after it counts: the model reads the text as a whole,
    and it cannot be told which part of the token's logprob belongs to the end.
    """
    ends = [*logprobs.text_offset[1:], len(text)]
    tokens = [
        TokenScore(piece, logprob, logprob >= max((top or {piece: logprob}).values()))
        for piece, logprob, top, end in zip(
            logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, ends, strict=True
        )
        if logprob is not None and (end > begin or begin == 0)
    ]
    return Score(text[begin:], tuple(tokens))
