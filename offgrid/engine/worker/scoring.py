"""Logprobs of a prompt's tokens, chunk by chunk as the prompt is prefilled."""

from __future__ import annotations

import math

from offgrid.engine.protocol import Delta, PromptToken, TokenLogprob
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import has_added_bos
from offgrid.engine.worker.scheduler import BatchSpan
from offgrid.engine.worker.sequence import Sequence
from offgrid.sampling import SampleResult, TokenScore, score_rows

SCORED_BYTES = 32 << 20
"""Most bytes of logits of prompt tokens in one step."""


class ScoredSpan:
    """A decoded span of a prompt whose tokens get logprobs.

    Args:
        model: has just decoded the span.
        span: the span.
        end: batch index of its last token.
    """

    def __init__(self, model: Model, span: BatchSpan[Sequence], end: int) -> None:
        self.sequence = span.sequence
        self._model = model
        last = span.start + span.count
        # The logits of a token score the next one: those of the last token score the answer.
        first = max(span.start, self.sequence.wanted_from)
        scored = range(first, min(last, self.sequence.n_prompt - 1))
        self._addresses = [model.logits(end - (last - 1 - position)) for position in scored]
        self._tokens = self.sequence.tokens[first + 1 : first + 1 + len(scored)].tolist()

    def delta(self) -> Delta:
        """Return the logprobs, and count them. Call it before the next decode.

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
    """Return a sampled token and its alternatives as they are sent to the server."""
    top = tuple(
        (model.piece_with_special(token), finite(logprob)) for token, logprob in result.top_logprobs
    )
    assert result.logprob is not None
    token = result.token
    silent = not model.piece(token)
    return TokenLogprob(token, model.piece_with_special(token), finite(result.logprob), top, silent)


def finite(logprob: float) -> float:
    """Return -9999.0 for -inf, as the OpenAI API does for impossible tokens: JSON has no -inf."""
    return logprob if math.isfinite(logprob) else -9999.0
