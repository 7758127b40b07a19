"""Logprobs of a prompt's tokens, chunk by chunk as the prompt is computed."""

from __future__ import annotations

import math

from offgrid.engine.protocol import Delta, PromptToken, TokenLogprob
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import has_added_bos
from offgrid.engine.worker.scheduler import BatchSpan
from offgrid.engine.worker.sequence import Sequence
from offgrid.sampling import SampleResult, TokenScore, score_rows

SCORED_BYTES = 32 << 20
"""Logits of prompts' tokens that one step may keep at once."""


class ScoredSpan:
    """A decoded span of a prompt whose tokens get logprobs.

    Args:
        model: that has just decoded the span.
        span: what was decoded.
        end: place in the batch of its last token.
    """

    def __init__(self, model: Model, span: BatchSpan[Sequence], end: int) -> None:
        self.sequence = span.sequence
        self._model = model
        last = span.start + span.count
        # The logits of a token are about the next one: the last token's are about the answer.
        first = max(span.start, self.sequence.wanted_from)
        scored = range(first, min(last, self.sequence.n_prompt - 1))
        self._addresses = [model.logits(end - (last - 1 - position)) for position in scored]
        self._tokens = self.sequence.tokens[first + 1 : first + 1 + len(scored)].tolist()

    def delta(self) -> Delta:
        """Return the logprobs, and count them. To be called before the next decode.

        Raises:
            SamplingError: a row of logits is unusable.
        """
        sequence = self.sequence
        entries = []
        if sequence.scored == 0:
            token = int(sequence.tokens[0])
            silent = has_added_bos(self._model, sequence.request)
            entries.append(PromptToken(token, self._model.piece_with_special(token), silent=silent))
        n_top = sequence.request.prompt_logprobs or 0
        scores = score_rows(sequence.sampler, self._addresses, self._tokens, n_top)
        entries += map(self._entry, scores)
        sequence.scored += len(entries)
        return Delta(sequence.request_id, sequence.choice, "", 0, prompt=tuple(entries))

    def _entry(self, score: TokenScore) -> PromptToken:
        piece = self._model.piece_with_special
        top = [(token, piece(token), finite(logprob)) for token, logprob in score.top_logprobs]
        return PromptToken(
            score.token, piece(score.token), finite(score.logprob), score.rank, tuple(top)
        )


def drawn_token(model: Model, result: SampleResult) -> TokenLogprob:
    """Return a drawn token and its alternatives as the server gets to know them."""
    top = tuple(
        (model.piece_with_special(token), finite(logprob)) for token, logprob in result.top_logprobs
    )
    assert result.logprob is not None
    token = result.token
    silent = not model.piece(token)
    return TokenLogprob(token, model.piece_with_special(token), finite(result.logprob), top, silent)


def finite(logprob: float) -> float:
    """-inf has no JSON; the OpenAI API says -9999.0 for a token that cannot be drawn."""
    return logprob if math.isfinite(logprob) else -9999.0
