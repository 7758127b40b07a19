"""A chat request in one model's dialect: prompt, images, grammar; to be counted or generated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from offgrid.api.chat.choice import Choice
from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.chat.request import ChatRequest
from offgrid.api.fields import notices
from offgrid.api.fields.bounds import answer_limit, bounds
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.owner import owner
from offgrid.api.http.request import in_turn
from offgrid.api.screening import check_prompt
from offgrid.chat.dialect import Dialect
from offgrid.engine.client.client import EngineClient
from offgrid.engine.context_length import check_message_count
from offgrid.engine.protocol.requests import Grammar, ReasoningBudget, TokenQuery
from offgrid.errors import InvalidParameter
from offgrid.grammar.checked import CheckedSchema

BASE_MODEL = (
    "base model: it has no chat template and was asked in ChatML; use /v1/completions, or start "
    "the server with --chat-template"
)
"""The warning in the header of an answer."""


class ChatPrompt:
    """A chat request rendered in one model's dialect.

    Attributes:
        rendered: the rendered prompt.
        images: the image files; ``image_params`` names the request field of each.
        grammar: the grammar that the answer must follow; None for any answer.
        visible: control tokens whose text the answer parser needs.
        reasoning_budget: limits the reasoning of the answer; None for no limit.
    """

    def __init__(self, request: ChatRequest, dialect: Dialect) -> None:
        self.request = request
        self._dialect = dialect
        self._offer = offer = request.offer
        numbers = itertools.count()
        self.rendered = dialect.prompt(
            [message.for_template(numbers) for message in request.messages],
            list(offer.tools) or None,
            ask=request.add_generation_prompt is not False,
            resume=request.continue_final_message,
            variables=request.template_variables,
        )
        self.images = tuple(image.data for image in request.images)
        self.image_params = tuple(image.param for image in request.images)
        self.visible = dialect.visible
        self.constrained = offer.constrained
        self.thinking = self.rendered.thinking
        self.grammar = self._grammar(request.grammar)
        self.reasoning_budget = self._reasoning_budget()

    def _grammar(self, wanted: Grammar | None) -> Grammar | None:
        """Return the grammar of the answer, for the functions and for ``response_format``."""
        offer = self._offer
        answer: CheckedSchema | None = None
        if wanted is not None and not offer.required:
            if wanted.kind != "json_schema":
                if offer.functions:
                    raise InvalidParameter(
                        f"{wanted.param} cannot be combined with functions that may be called.",
                        wanted.param,
                    )
                self.thinking = False  # the grammar covers the whole answer, without reasoning
                return wanted
            (answer,) = wanted.schemas
            self.constrained = bool(offer.functions)
        if answer is None and not offer.constrained:
            return None
        source, schemas = self._dialect.grammar(
            offer.functions,
            required=offer.required,
            parallel=offer.parallel,
            thinking=self.rendered.thinking,
            answer=answer,
        )
        return Grammar("answer", source, "tools" if wanted is None else wanted.param, schemas)

    def _reasoning_budget(self) -> ReasoningBudget | None:
        """Return the limit of the answer's reasoning.

        Raises:
            InvalidParameter: the request sets one, and the model does not reason.
        """
        request, places = self.request, self._dialect.reasoning_places
        tokens, param = request.reasoning_budget_tokens, request.budget_param
        if tokens is None:
            return None
        if places is None:
            if not param:  # a setting, for all models
                return None
            raise InvalidParameter(
                f"{param} is not supported by this model, because it does not reason; leave it "
                "out.",
                param,
                code="unsupported_parameter",
            )
        if self.grammar is not None and self.grammar is request.grammar:
            return None  # the grammar covers the whole answer, without reasoning
        return places.budget(
            tokens,
            param or "reasoning_budget_tokens",
            opened=self.thinking,
            offered=self.offers_tools,
            required=self._offer.required,
        )

    @property
    def offers_tools(self) -> bool:
        """Whether the answer may call functions."""
        return bool(self._offer.functions)

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that the engine may look for anywhere in the answer."""
        return () if self._content_stops else self.request.stops

    @property
    def _content_stops(self) -> tuple[str, ...]:
        """Stop strings that :class:`Choice` looks for in the content. Only the parser can tell it
        from reasoning and calls, so the engine looks for them only if there are neither."""
        plain = not self._dialect.reasons and not self.offers_tools
        return () if plain else self.request.stops

    @property
    def may_end_early(self) -> bool:
        """Whether a choice can end before its generation does."""
        return bool(self._content_stops) or (self.offers_tools and not self._offer.parallel)

    def choices(self) -> list[Choice]:
        """Return the choices of the answer, all empty."""
        return [
            Choice(
                self._dialect.parser(
                    self._offer.schemas,
                    thinking=self.thinking,
                    constrained=self.constrained,
                    max_calls=0 if self._offer.parallel else 1,
                ),
                self._content_stops,
            )
            for _ in range(self.request.n)
        ]


def chat_prompt(engine: EngineClient, request: ChatRequest) -> ChatPrompt:
    """Return a request rendered in the model's dialect, with the system prompt of its settings.

    Raises:
        InvalidParameter: the model's template does not accept the messages, or there are images
            and the model has no vision support.
        ContextLengthExceeded: the conversation is longer than the context can take.
    """
    info = engine.info
    request = request.with_system(engine.defaults.system_prompt)
    request = request.with_budget(engine.defaults.reasoning_budget)
    check_message_count(len(request.messages), info.n_ctx, "messages")
    if request.images and not info.has_vision:
        raise InvalidParameter(
            "This model has no vision support: no projector (mmproj) file was found next to it.",
            request.images[0].param.removesuffix(".image_url.url"),
            code="unsupported_parameter",
        )
    dialect = DIALECTS.of(info, tools=bool(request.offer.tools), documents=bool(request.documents))
    with in_turn():
        return ChatPrompt(request, dialect)


def warn_of_base(engine: EngineClient) -> None:
    """Warn the client in a header if the model has no chat template."""
    if engine.info.is_base:
        notices.warn(BASE_MODEL)


def count_tokens(
    engine: EngineClient, request: ChatRequest, param: str, alive: Callable[[], bool]
) -> int:
    """Return how many tokens a request's prompt has; errors name the field ``param``.

    Raises:
        RequestError: the model does not accept the request.
        ClientGone: ``alive`` returned False.
    """
    prompt = chat_prompt(engine, request)
    query = TokenQuery(
        parts=prompt.rendered.parts,
        add_bos=True,
        param=param,
        images=prompt.images,
        image_params=prompt.image_params,
        owner=owner(),
    )
    return len(engine.look_up(query, bounds().within(alive)).tokens)


def texts_of(request: ChatRequest) -> Iterator[tuple[Any, str]]:
    """Yield the parts of a request that its prompt is made of, each with its field."""
    for name in ("messages", "tools", "documents", "chat_template_kwargs"):
        yield msgspec.to_builtins(getattr(request, name)), name


def start_chat(
    engine: EngineClient, request: ChatRequest, alive: Callable[[], bool]
) -> tuple[ChatPrompt, GenerationGroup]:
    """Submit a request to its model.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client is still connected.

    Raises:
        ContentRefused: the content filter does not.
        RequestError: the model does not accept the request; nothing is left running.
    """
    check_prompt(texts_of(request))
    prompt = chat_prompt(engine, request)
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    generation = request.generation(
        engine.defaults.sampling,
        parts=prompt.rendered.parts,
        max_tokens=answer_limit(request.token_limit),
        stop=prompt.stops,
        n=request.n,
        top_logprobs=top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        prompt_param="messages",
        grammar=prompt.grammar,
        reasoning_budget=prompt.reasoning_budget,
        timings=prompt.may_end_early,
        visible=prompt.visible,
        images=prompt.images,
        image_params=prompt.image_params,
        prediction=None if request.prediction is None else request.prediction.text,
    )
    return prompt, GenerationGroup(engine, [generation], alive)
