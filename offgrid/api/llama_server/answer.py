"""The answers of ``/completion`` and ``/infill``, whole or in events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import structs

from offgrid.api.generation import GenerationGroup
from offgrid.api.http.sse import Chunk
from offgrid.api.llama_server.framing import nested
from offgrid.api.llama_server.request import InfillRequest, NativeFields, NativeRequest
from offgrid.api.llama_server.settings import generation_settings
from offgrid.api.shapes import Json
from offgrid.api.timings import Clock, with_progress
from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.events import Delta, TokenLogprob
from offgrid.engine.protocol.requests import GenerationRequest


class _Choice:
    """One answer while it is generated.

    Args:
        prompt_tokens: tokens of its prompt.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._clock = Clock()
        self._prompt_tokens = prompt_tokens
        self.texts: list[str] = []
        self.tokens: list[TokenLogprob] = []
        self.last: Delta | None = None

    def add(self, delta: Delta) -> None:
        """Add the next delta."""
        self.last = delta
        # The choices of a prompt share its computation; each answer here shows its time.
        self._clock.add(0, structs.replace(delta, choice=0) if delta.choice else delta)
        self.texts.append(delta.text)
        self.tokens += delta.logprobs

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.texts)

    @property
    def timings(self) -> Json:
        """llama-server's ``timings``."""
        assert self.last is not None
        tokens = self.last.completion_tokens
        return self._clock.timings(self._prompt_tokens, self.last.cached_tokens, [tokens])


class Answering:
    """Makes the answers of one request.

    Args:
        engine: the model.
        request: the request.
        generations: what its prompts became.
        group: the generations while they run.
    """

    def __init__(
        self,
        engine: EngineClient,
        request: NativeRequest | InfillRequest,
        generations: Sequence[GenerationRequest],
        group: GenerationGroup,
    ) -> None:
        self._engine = engine
        self._request: NativeFields = request
        self._texts = (
            [prompt.text for prompt in request.prompts]
            if isinstance(request, NativeRequest)
            else [None]
        )
        self._generations = generations
        self._group = group
        self._choices: dict[int, _Choice] = {}

    def whole(self) -> Json | list[Json]:
        """Return the answer when it is complete; a list if there are several."""
        for index, delta in self._group.by_prompt():
            if delta.progress is None:
                self._choice(index).add(delta)
        answers = [self._last(index) for index in sorted(self._choices)]
        return answers[0] if len(answers) == 1 else answers

    def chunks(self) -> Iterator[Chunk]:
        """Yield an event for each part of an answer, and one for its end."""
        for item in self._group.deltas():
            if not isinstance(item, tuple):
                yield item
                continue
            index, delta = item
            if delta.progress is not None:
                length = self._group.prompt_length(index // self._group.n)
                yield with_progress(self._part(index, delta), delta, length)
                continue
            self._choice(index).add(delta)
            if delta.text or delta.logprobs:
                yield self._part(index, delta)
            if delta.finish_reason is not None:
                yield self._last(index)

    def _choice(self, index: int) -> _Choice:
        if index not in self._choices:
            self._choices[index] = _Choice(self._group.prompt_length(index // self._group.n))
        return self._choices[index]

    def _part(self, index: int, delta: Delta) -> Json:
        part: Json = {
            "index": index,
            "content": delta.text,
            "tokens": [token.token for token in delta.logprobs],
            "stop": False,
            "id_slot": delta.slot,
            "tokens_predicted": delta.completion_tokens,
            "tokens_evaluated": self._group.prompt_length(index // self._group.n),
        }
        if self._request.timings_per_token and delta.completion_tokens:
            part["timings"] = self._choice(index).timings
        if self._request.n_probs and delta.logprobs:
            part["completion_probabilities"] = self._probabilities(delta.logprobs)
        return part

    def _last(self, index: int) -> Json:
        """Return the object that ends an answer; without a stream, it has the whole answer."""
        request, choice, number = self._request, self._choices[index], index // self._group.n
        last = choice.last
        assert last is not None
        generation, length = self._generations[number], self._group.prompt_length(number)
        streamed = request.stream
        ids = [token.token for token in choice.tokens]
        text = choice.text
        answer: Json = {
            "index": index,
            "content": "" if streamed else text,
            "tokens": [] if streamed or not request.return_tokens else ids,
            "id_slot": last.slot,
            "stop": True,
            "model": self._engine.name,
            "tokens_predicted": last.completion_tokens,
            "tokens_evaluated": length,
            "generation_settings": generation_settings(
                generation.sampling, generation, request, self._group.seed
            ),
            "prompt": self._prompt(number),
            "has_new_line": "\n" in text,
            "truncated": self._is_truncated(number, last),
            "stop_type": _stop_type(last),
            "stopping_word": last.stopped_by,
            "tokens_cached": length + last.completion_tokens,
            "timings": choice.timings,
        }
        if request.n_probs and not streamed:
            answer["completion_probabilities"] = self._probabilities(choice.tokens)
        return nested(request.response_fields, answer)

    def _prompt(self, number: int) -> str:
        """Return the text of a prompt as the model reads it, except for a BOS that was added."""
        text = self._texts[number]
        return self._group.prompt_text(number) if text is None else text

    def _is_truncated(self, number: int, last: Delta) -> bool:
        """Whether the context was too short: for the prompt, or for the rest of the answer."""
        full = self._group.prompt_length(number) + last.completion_tokens
        full_context = last.finish_reason == "length" and full >= self._engine.info.n_ctx
        return self._group.prompt_cut(number) or full_context

    def _probabilities(self, tokens: Sequence[TokenLogprob]) -> list[Json]:
        after = self._request.post_sampling_probs
        return [
            {
                **_entry(token.token, token.piece, token.logprob, after),
                "top_probs" if after else "top_logprobs": [
                    _entry(id, piece, logprob, after)
                    for id, (piece, logprob) in zip(token.ids, token.top, strict=True)
                    if not after or logprob > _IMPOSSIBLE
                ],
            }
            for token in tokens
        ]


_IMPOSSIBLE = -9999.0
"""The logprob of tokens that cannot be sampled."""


def _entry(id: int, piece: bytes, logprob: float, after: bool) -> Json:
    number: Any = math.exp(logprob) if after else logprob
    return {
        "id": id,
        "token": piece.decode("utf-8", "replace"),
        "bytes": list(piece),
        "prob" if after else "logprob": number,
    }


def _stop_type(last: Delta) -> str:
    """Return why an answer ended, in llama-server's words. It has none for a content filter."""
    if last.finish_reason == "stop":
        return "word" if last.stopped_by else "eos"
    return "limit" if last.finish_reason == "length" else "content_filter"
