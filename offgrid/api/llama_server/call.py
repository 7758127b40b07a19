"""A completion or infill request that its model has accepted, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from offgrid.api.fields import notices
from offgrid.api.fields.bounds import answer_limit, bounds
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.owner import owner
from offgrid.api.http.sse import Chunk
from offgrid.api.llama_server.answer import Answering
from offgrid.api.llama_server.request import (
    InfillRequest,
    NativeFields,
    NativePrompt,
    NativeRequest,
)
from offgrid.api.screening import check_prompt
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.requests import (
    Excerpt,
    GenerationRequest,
    Infill,
    PromptPart,
    TokenQuery,
)
from offgrid.errors import InvalidParameter

CUT = "the text does not fit into the context: a part of it was left out"
"""The warning in the header of an answer to ``/infill``."""


class NativeCall:
    """A request that is being answered. :meth:`whole` or :meth:`chunks` is called, once.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client still waits for the answer.

    Attributes:
        group: the generations; the caller that gives up the answer cancels them.

    Raises:
        RequestError: the model does not accept the request; nothing is left running.
    """

    def __init__(
        self,
        engine: EngineClient,
        request: NativeRequest | InfillRequest,
        alive: Callable[[], bool],
    ) -> None:
        if isinstance(request, InfillRequest):
            generations = [_infill(engine, request)]
        else:
            generations = _completions(engine, request, alive)
        self.group = GenerationGroup(engine, generations, alive)
        if any(self.group.prompt_cut(number) for number in range(len(generations))):
            notices.warn(CUT)
        self._answering = Answering(engine, request, generations, self.group)

    def whole(self) -> Json | list[Json]:
        """Return the answer when it is complete; a list if there are several."""
        return self._answering.whole()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the events of a streamed answer."""
        return self._answering.chunks()


def _generation(engine: EngineClient, request: NativeFields, **more: Any) -> GenerationRequest:
    return request.generation(
        engine.defaults.sampling,
        timings=True,
        max_tokens=answer_limit(request.max_tokens),
        stop=request.stops,
        n=request.n,
        top_logprobs=request.n_probs if request.lists_tokens else None,
        end_logprob=True,
        ids=True,
        grammar=request.grammar,
        **more,
    )


def _infill(engine: EngineClient, request: InfillRequest) -> GenerationRequest:
    texts = [
        (request.input_prefix, "input_prefix"),
        (request.prompt, "prompt"),
        (request.input_suffix, "input_suffix"),
    ]
    for index, extra in enumerate(request.input_extra):
        texts += [(extra.text, f"input_extra[{index}].text"),
                  (extra.filename, f"input_extra[{index}].filename")]  # fmt: skip
    check_prompt(texts)
    infill = Infill(
        request.input_prefix,
        request.input_suffix,
        request.prompt,
        tuple(Excerpt(extra.filename, extra.text) for extra in request.input_extra),
    )
    return _generation(
        engine, request, infill=infill, echo=request.wants("prompt"), prompt_param="input_prefix"
    )


def _completions(
    engine: EngineClient, request: NativeRequest, alive: Callable[[], bool]
) -> list[GenerationRequest]:
    check_prompt(
        [
            (piece, prompt.param)
            for prompt in request.prompts
            for piece in prompt.pieces
            if isinstance(piece, str)
        ]
    )
    return [_completion(engine, request, prompt, alive) for prompt in request.prompts]


def _completion(
    engine: EngineClient,
    request: NativeRequest,
    prompt: NativePrompt,
    alive: Callable[[], bool],
) -> GenerationRequest:
    if prompt.images and not engine.info.has_vision:
        raise InvalidParameter(
            "This model has no vision support: no projector (mmproj) file was found next to it.",
            f"{prompt.param}.multimodal_data",
            code="unsupported_parameter",
        )
    if prompt.text is None:
        return _generation(
            engine,
            request,
            tokens=_ids(engine, prompt, alive),
            echo=request.wants("prompt"),
            prompt_param=prompt.param,
        )
    parts: list[PromptPart] = []
    for number, piece in enumerate(prompt.pieces):
        if number:
            parts.append(PromptPart("", False, number - 1))
        parts.append(PromptPart(str(piece), True))
    data = f"{prompt.param}.multimodal_data"
    return _generation(
        engine,
        request,
        parts=tuple(parts),
        images=prompt.images,
        image_params=tuple(f"{data}[{index}]" for index in range(len(prompt.images))),
        prompt_param=prompt.param,
    )


def _ids(engine: EngineClient, prompt: NativePrompt, alive: Callable[[], bool]) -> tuple[int, ...]:
    """Return the token ids of a prompt that has some; BOS is added if it begins with a text."""
    found: list[int] = []
    for number, piece in enumerate(prompt.pieces):
        if isinstance(piece, str):
            query = TokenQuery(
                (PromptPart(piece, True),),
                add_bos=not number,
                param=prompt.param,
                owner=owner(),
            )
            found += engine.look_up(query, bounds().within(alive)).tokens
        else:
            found += piece
    return tuple(found)
