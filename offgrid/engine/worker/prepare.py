"""Turns a request into sequences that can be computed: tokenised, checked, with samplers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import secrets

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.context_length import check_prompt_tokens
from offgrid.engine.protocol.requests import (
    GenerationRequest,
    NextToken,
    PromptPart,
    ReasoningBudget,
)
from offgrid.engine.worker.banned import PARAM
from offgrid.engine.worker.branching import Branching, Trie
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.forced import Forced
from offgrid.engine.worker.drafts.lookup import Lookup
from offgrid.engine.worker.drafts.prediction import PredictedText, Prediction
from offgrid.engine.worker.drafts.source import Source
from offgrid.engine.worker.drafts.tokens import remembering
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.image import ImageSpan
from offgrid.engine.worker.infill import read_infill
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher
from offgrid.engine.worker.prompts import (
    prompt_text,
    read_answer,
    read_bias,
    read_branches,
    read_prediction,
    read_prompt,
    read_with_images,
)
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.engine.worker.screening import PRIMER, Filters, KeptFilter, Screen
from offgrid.engine.worker.sequence import Sequence
from offgrid.errors import ContentRefused, InvalidParameter
from offgrid.sampling import Sampler, SamplingParams

_SEED_BITS = 53
"""Bits of a random seed: it survives a round trip through a JSON number in any language."""


class Prepared:
    """A request whose prompt is tokenised and checked, ready for the queue. ``prompt_tokens``
    counts the tokens of its prompt and, if there are branches, theirs up to the choices."""

    __slots__ = ("cut", "id", "prompt", "prompt_text", "prompt_tokens", "seed", "sequences")

    def __init__(
        self,
        id: int,
        prompt: NDArray[np.int32],
        seed: int,
        sequences: list[Sequence],
        prompt_text: str,
        *,
        cut: bool = False,
        prompt_tokens: int | None = None,
    ) -> None:
        self.id = id
        self.prompt_tokens = len(prompt) if prompt_tokens is None else prompt_tokens
        self.prompt_text = prompt_text
        self.cut = cut
        self.prompt = prompt
        self.seed = seed
        self.sequences = sequences


class Preparer:
    """Prepares requests for one model. Several threads may use it at once.

    Attributes:
        filters: the content filters that requests name.
    """

    def __init__(self, model: Model) -> None:
        self.filters = Filters()
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
            ContentRefused: the text of its token ids matches the content filter.
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
        kept = self.filters.of(request.filter)
        images: tuple[ImageSpan, ...] = ()
        cut = False
        if request.infill is not None:
            prompt, cut = read_infill(self._model, request, request.infill)
        elif request.images:
            prompt, images = read_with_images(self._model, request, request.prompt_param)
        else:
            prompt = read_prompt(self._model, request)
        check_prompt_tokens(
            len(prompt),
            self._model.n_ctx,
            request.prompt_param,
            answered=request.max_tokens != 0,
        )
        if request.tokens is not None and kept is not None:
            self._check(request.tokens, kept, request.prompt_param)
        seed = request.sampling.seed
        seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        if request.branches:
            return self._prepare_branches(id, request, prompt, images, seed)
        if request.next_token is not None:
            return self._prepare_next(id, request, request.next_token, prompt, images, seed, kept)
        predicted = read_prediction(self._model, request)
        sequences = self._sequences(id, request, prompt, images, seed, predicted, kept)
        text = ""
        if request.tokens is not None and (request.echo or request.top_logprobs is not None):
            text = prompt_text(self._model, request.tokens)
        elif request.infill is not None and request.echo:
            text = prompt_text(self._model, prompt.tolist())
        return Prepared(id, prompt, seed, sequences, text, cut=cut)

    def _prepare_branches(
        self,
        id: int,
        request: GenerationRequest,
        prompt: NDArray[np.int32],
        images: tuple[ImageSpan, ...],
        seed: int,
    ) -> Prepared:
        """Return a request with branches, which one sequence computes."""
        model = self._model
        trie = Trie(
            read_branches(model, request, len(prompt)),
            ends=request.branches_end and bool(model.eog_ids),
            forks=not model.can_cut_tail,
            keeps_prompt=not model.can_cut,
        )
        sequence = Sequence(
            id,
            0,
            request,
            prompt,
            n_ctx=model.n_ctx,
            sampler=Sampler(model.n_vocab, SamplingParams(seed=seed)),
            images=images,
            partition=self._partition(request),
            branching=Branching(trie),
        )
        tokens = len(prompt) + trie.prompt_tokens
        return Prepared(id, prompt, seed, [sequence], "", prompt_tokens=tokens)

    def _prepare_next(
        self,
        id: int,
        request: GenerationRequest,
        wanted: NextToken,
        prompt: NDArray[np.int32],
        images: tuple[ImageSpan, ...],
        seed: int,
        kept: KeptFilter | None,
    ) -> Prepared:
        """Return a request for the logits of the next token, with the sampler for it."""
        model = self._model
        answer = read_answer(model, wanted)
        if kept is not None:
            self._check(tuple(answer.tolist()), kept, wanted.param)
        tokens = np.concatenate((prompt, answer))
        check_prompt_tokens(len(tokens), model.n_ctx, wanted.param)
        params = self._sampling_params(request, seed)
        sequence = Sequence(
            id,
            0,
            request,
            tokens,
            n_ctx=model.n_ctx,
            sampler=self._sampler(request, prompt, images, params),
            images=images,
            partition=self._partition(request),
        )
        sequence.answered = len(prompt)
        if params.mirostat or params.adaptive_target >= 0:
            sequence.scored = len(prompt)  # what was likely decides the state: follow the answer
        else:
            _, mu, mean = sequence.sampler.state
            sequence.sampler.state = (len(answer), mu, mean)
        return Prepared(id, tokens, seed, [sequence], "")

    def _sampler(
        self,
        request: GenerationRequest,
        prompt: NDArray[np.int32],
        images: tuple[ImageSpan, ...],
        params: SamplingParams,
        choice: int = 0,
    ) -> Sampler:
        """Return the sampler of a choice."""
        return Sampler(
            self._model.n_vocab,
            params,
            prompt_tokens=prompt[prompt >= 0] if images else prompt,
            choice=choice,
            banned=self._model.eog_ids if request.ignore_eos else (),
            end_tokens=self._model.eog_ids,
        )

    def _sequences(
        self,
        id: int,
        request: GenerationRequest,
        prompt: NDArray[np.int32],
        images: tuple[ImageSpan, ...],
        seed: int,
        predicted: PredictedText | None,
        kept: KeptFilter | None,
    ) -> list[Sequence]:
        """Return one sequence for each choice, each with its sampler."""
        model = self._model
        params = self._sampling_params(request, seed)
        visible = model.visible_pieces(request.visible) if request.visible else {}
        matchers: list[Matcher | None] = [None] * request.n
        if request.grammar is not None:
            matchers = [*self._grammars.matchers(request.grammar, request.n)]
        sequences = []
        answers = None if kept is None else kept.answers
        primer = "" if answers is None else self._primer(prompt)
        ends = self._ends_of_reasoning(request, params)
        for choice, matcher in enumerate(matchers):
            sequence = Sequence(
                id,
                choice,
                request,
                prompt,
                n_ctx=model.n_ctx,
                sampler=self._sampler(request, prompt, images, params, choice),
                matcher=matcher,
                reasoning=self._reasoning(request.reasoning_budget, ends),
                visible=visible,
                images=images,
                drafter=self._drafter(matcher, predicted),
                partition=self._partition(request),
                screen=None if answers is None else Screen(answers, primer),
            )
            sequences.append(sequence)
        return sequences

    def _check(self, tokens: tuple[int, ...], kept: KeptFilter, param: str) -> None:
        """Refuse token ids whose text matches. The server, which checks texts, does not know the
        pieces of tokens."""
        if kept.prompts is not None and kept.prompts.found(prompt_text(self._model, tokens)):
            raise ContentRefused(param=param)

    def _primer(self, prompt: NDArray[np.int32]) -> str:
        """Return the end of the prompt's text, from the last control token or image on."""
        pieces: list[bytes] = []
        for token in reversed(prompt[-PRIMER:].tolist()):
            piece = self._model.piece(token) if token >= 0 else b""
            if not piece:
                break
            pieces.append(piece)
        return b"".join(reversed(pieces)).decode("utf-8", "replace")

    def _ends_of_reasoning(
        self, request: GenerationRequest, params: SamplingParams
    ) -> tuple[list[int], list[int]]:
        """Return the tokens that end reasoning, at first and if it begins again.

        Raises:
            InvalidParameter: the request bans one of them.
        """
        budget = request.reasoning_budget
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
            if any(banned in text for banned in request.banned_strings):
                raise InvalidParameter(
                    f"banned_strings bans a part of the text that ends reasoning; {budget.param} "
                    "needs it.",
                    PARAM,
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

    def _partition(self, request: GenerationRequest) -> str:
        """Return the partition of a request: the hash of what its prefixes may be shared by, in
        hex, because it is written to files; empty if all may share them."""
        owner = "" if self._model.load.share_prefixes else request.partition
        if not owner and not request.cache_salt:
            return ""
        names = json.dumps([owner, request.cache_salt]).encode()
        return hashlib.blake2b(names, digest_size=16).hexdigest()

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
