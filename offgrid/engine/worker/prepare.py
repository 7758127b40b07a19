"""Turns a request into sequences that can be computed: tokenised, checked, with samplers."""

from __future__ import annotations

import dataclasses
import math
import secrets

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.limits import check_prompt_tokens
from offgrid.engine.protocol import GenerationRequest, PromptPart, ReasoningBudget
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.forced import Forced
from offgrid.engine.worker.drafts.lookup import Lookup
from offgrid.engine.worker.drafts.prediction import PredictedText, Prediction
from offgrid.engine.worker.drafts.source import Source
from offgrid.engine.worker.drafts.tokens import remembering
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.image import ImageSpan
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher
from offgrid.engine.worker.prompts import (
    prompt_text,
    read_bias,
    read_prediction,
    read_prompt,
    read_with_images,
)
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.engine.worker.sequence import Sequence
from offgrid.errors import InvalidParameter
from offgrid.sampling import Sampler, SamplingParams

_SEED_BITS = 53
"""Bits of a random seed: it survives a round trip through a JSON number in any language."""


class Prepared:
    """A request whose prompt is tokenised and checked, ready for the queue."""

    __slots__ = ("id", "prompt", "prompt_text", "seed", "sequences")

    def __init__(
        self,
        id: int,
        prompt: NDArray[np.int32],
        seed: int,
        sequences: list[Sequence],
        prompt_text: str,
    ) -> None:
        self.id = id
        self.prompt_text = prompt_text
        self.prompt = prompt
        self.seed = seed
        self.sequences = sequences


class Preparer:
    """Prepares requests for one model. Several threads may use it at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._grammars = Grammars(model, model.load.open_objects)
        self._tokenize_forced = remembering(model)

    def ready(self) -> None:
        """Build what requests with grammars need, so that the first of them does not wait."""
        if self._model.generates:
            self._grammars.prepare()

    def prepare(self, id: int, request: GenerationRequest) -> Prepared:
        """Tokenise and check a request.

        Raises:
            InvalidParameter: a token id or bias is outside the vocabulary, the prompt is empty, the
                grammar is refused, or the model does not generate text.
            ContextLengthExceeded: the prompt leaves no room for an answer, or the prediction is
                longer than any answer.
            Overloaded: other grammars take too long to compile.
        """
        if not self._model.generates:
            raise InvalidParameter(
                "This model does not generate text.", "model", code="unsupported_model"
            )
        images: tuple[ImageSpan, ...] = ()
        if request.images:
            prompt, images = read_with_images(self._model, request, request.prompt_param)
        else:
            prompt = read_prompt(self._model, request)
        check_prompt_tokens(
            len(prompt),
            self._model.n_ctx,
            request.prompt_param,
            answered=request.max_tokens != 0,
        )
        seed = request.sampling.seed
        seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        predicted = read_prediction(self._model, request)
        sequences = self._sequences(id, request, prompt, images, seed, predicted)
        text = ""
        if request.tokens is not None and (request.echo or request.top_logprobs is not None):
            text = prompt_text(self._model, request.tokens)
        return Prepared(id, prompt, seed, sequences, text)

    def _sequences(
        self,
        id: int,
        request: GenerationRequest,
        prompt: NDArray[np.int32],
        images: tuple[ImageSpan, ...],
        seed: int,
        predicted: PredictedText | None,
    ) -> list[Sequence]:
        """Return one sequence for each choice, each with its sampler."""
        model = self._model
        params = self._sampling_params(request, seed)
        visible = model.visible_pieces(request.visible) if request.visible else {}
        matchers: list[Matcher | None] = [None] * request.n
        if request.grammar is not None:
            matchers = [*self._grammars.matchers(request.grammar, request.n)]
        sequences = []
        ends = self._ends_of_reasoning(request.reasoning_budget, params)
        for choice, matcher in enumerate(matchers):
            sampler = Sampler(
                model.n_vocab,
                params,
                prompt_tokens=prompt[prompt >= 0] if images else prompt,
                choice=choice,
                banned=model.eog_ids if request.ignore_eos else (),
                end_tokens=model.eog_ids,
            )
            sequence = Sequence(
                id,
                choice,
                request,
                prompt,
                n_ctx=model.n_ctx,
                sampler=sampler,
                matcher=matcher,
                reasoning=self._reasoning(request.reasoning_budget, ends),
                visible=visible,
                images=images,
                drafter=self._drafter(matcher, predicted),
            )
            sequences.append(sequence)
        return sequences

    def _ends_of_reasoning(
        self, budget: ReasoningBudget | None, params: SamplingParams
    ) -> tuple[list[int], list[int]]:
        """Return the tokens that end reasoning, at first and if it begins again.

        Raises:
            InvalidParameter: the request bans one of them.
        """
        if budget is None:
            return [], []
        bias = params.logit_bias or {}
        found = []
        for text in (budget.close, budget.insist):
            tokens = self._model.tokenize_bare((PromptPart(text, True),)).tolist()
            if any(bias.get(token) == -math.inf for token in tokens):
                raise InvalidParameter(
                    f"logit_bias bans a token that ends reasoning; {budget.param} needs it.",
                    "logit_bias",
                )
            found.append(tokens)
        return found[0], found[1]

    def _reasoning(
        self, budget: ReasoningBudget | None, ends: tuple[list[int], list[int]]
    ) -> ReasoningLimit | None:
        return None if budget is None else ReasoningLimit(budget, *ends, self._model.n_vocab)

    def _sampling_params(self, request: GenerationRequest, seed: int) -> SamplingParams:
        """Return the request's sampling parameters, completed with the parts that only the worker
        knows: the tokens of texts, and the seed."""
        sampling = request.sampling
        bias = read_bias(self._model, sampling.logit_bias or {}, request.text_bias)
        breakers = self._model.breakers(request.dry_breakers) if sampling.dry_multiplier else ()
        return dataclasses.replace(
            sampling, logit_bias=bias or None, dry_breakers=breakers, seed=seed
        )

    def _drafter(self, matcher: Matcher | None, predicted: PredictedText | None) -> Drafter | None:
        """Return what proposes tokens of one choice, the most reliable source first; None if
        nothing does.

        A prediction is followed, so that its tokens are counted, even if it is not drafted.
        """
        prediction = None if predicted is None else Prediction(predicted)
        if not (self._model.load.drafts and self._model.can_cut_tail):
            return None if prediction is None else Drafter([], prediction)
        sources: list[Source] = [Lookup()]
        if prediction is not None:
            sources.insert(0, prediction)
        if matcher is not None:
            sources.insert(0, Forced(self._tokenize_forced, self._model.piece))
        return Drafter(sources, prediction)
