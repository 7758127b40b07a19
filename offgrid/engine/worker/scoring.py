"""Logprobs of a prompt's tokens, chunk by chunk as the prompt is prefilled; rows of logits."""

from __future__ import annotations

import ctypes
import math

from offgrid.engine.protocol.events import Delta, LogitsRow, PromptToken, TokenLogprob
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import has_added_bos
from offgrid.engine.worker.sequence import Sequence
from offgrid.engine.worker.span_rows import SpanRows
from offgrid.engine.worker.spans import BatchSpan
from offgrid.sampling import SampleResult, TokenScore, follow, score_rows

SCORED_BYTES = 32 << 20
"""Most bytes of logits of prompt tokens in one step."""


class ScoredSpan(SpanRows):
    """A decoded span of a prompt whose tokens get logprobs."""

    def __init__(self, model: Model, span: BatchSpan[Sequence], end: int) -> None:
        # The logits of a token score the next one: those of the last token score the answer.
        super().__init__(model, span, end, span.sequence.n_prompt - 1)
        first = self.indices.start + 1
        self._tokens = self.sequence.tokens[first : first + len(self.indices)].tolist()

    def delta(self) -> Delta | None:
        """Return the logprobs, and count them. Call it before the next decode.

        If the request asks for the next token, its sampler follows the tokens instead.

        Raises:
            SamplingError: a row of logits is unusable.
        """
        sequence = self.sequence
        if sequence.request.next_token is not None:
            for address, token in zip(self.addresses, self._tokens, strict=True):
                follow(sequence.sampler, address, token)
            sequence.scored += len(self._tokens)
            return None
        entries = []
        if sequence.scored == 0:
            token = int(sequence.tokens[0])
            silent = has_added_bos(self._model, sequence.request)
            entries.append(PromptToken(token, self._model.piece_with_special(token), silent=silent))
        n_top = sequence.request.prompt_logprobs or 0
        scores = score_rows(sequence.sampler, self.addresses, self._tokens, n_top)
        entries += map(self._entry, scores)
        sequence.scored += len(entries)
        return Delta(sequence.request_id, sequence.choice, "", 0, prompt=tuple(entries))

    def _entry(self, score: TokenScore) -> PromptToken:
        piece = self._model.piece_with_special
        top = [(token, piece(token), finite(logprob)) for token, logprob in score.top_logprobs]
        return PromptToken(
            score.token, piece(score.token), finite(score.logprob), score.rank, tuple(top)
        )


def drawn_token(model: Model, result: SampleResult, *, ids: bool = False) -> TokenLogprob:
    """Return a sampled token and its alternatives as they are sent to the server.

    Args:
        model: knows the pieces of tokens.
        result: the draw.
        ids: whether the ids of the alternatives are wanted.
    """
    top = tuple(
        (model.piece_with_special(token), finite(logprob)) for token, logprob in result.top_logprobs
    )
    assert result.logprob is not None
    token = result.token
    silent = not model.piece(token)
    logprob = finite(result.logprob)
    named = tuple(token for token, _ in result.top_logprobs) if ids else ()
    return TokenLogprob(token, model.piece_with_special(token), logprob, top, silent, named)


def next_row(model: Model, sequence: Sequence, address: int) -> LogitsRow:
    """Return a copy of the row after a sequence, with what a sampler needs to draw from it.

    Args:
        model: has just computed the row.
        sequence: its request asks for the next token.
        address: of the row.
    """
    sampler = sequence.sampler
    return LogitsRow(
        ctypes.string_at(address, 4 * model.n_vocab),
        sequence.tokens[: sequence.answered].tobytes(),
        sequence.tokens[sequence.answered : sequence.n_prompt].tobytes(),
        sampler.params,
        tuple(sorted(model.eog_ids)),
        sampler.state,
    )


def finite(logprob: float) -> float:
    """Return -9999.0 for -inf, as the OpenAI API does for impossible tokens: JSON has no -inf."""
    return logprob if math.isfinite(logprob) else -9999.0
