"""The answer to a text completion, whole or in chunks: choices, ``echo`` and ``best_of``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from offgrid.api.completions.logprobs import LegacyLogprobs, joined
from offgrid.api.completions.request import CompletionRequest, Prompt
from offgrid.api.fields.bounds import answer_limit
from offgrid.api.generation import GenerationGroup, Total
from offgrid.api.http.sse import Chunk
from offgrid.api.logprobs import prompt_logprobs
from offgrid.api.timings import with_progress
from offgrid.engine.client.client import Defaults
from offgrid.engine.protocol.events import Delta, PromptToken, TokenLogprob
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart


def generation_requests(request: CompletionRequest, defaults: Defaults) -> list[GenerationRequest]:
    """Return one generation request for each prompt."""
    return [_generation(request, prompt, defaults) for prompt in request.prompts]


def _generation(
    request: CompletionRequest, prompt: Prompt, defaults: Defaults
) -> GenerationRequest:
    content = prompt.content
    top_logprobs = request.logprobs
    if top_logprobs is None and request.candidates > request.n:
        top_logprobs = 0  # best_of chooses by logprobs
    wanted = [request.prompt_logprobs, request.logprobs if request.echo else None]
    scored = [number for number in wanted if number is not None]
    return request.generation(
        defaults.sampling,
        # Parse control tokens in the text: the author of a raw prompt writes them too.
        parts=(PromptPart(content, True),) if isinstance(content, str) else (),
        tokens=None if isinstance(content, str) else content,
        max_tokens=answer_limit(request.max_tokens),
        stop=request.stops,
        n=request.candidates,
        top_logprobs=top_logprobs,
        end_logprob=True,
        prompt_logprobs=max(scored, default=None),
        echo=request.echo,
        suffix=request.suffix or None,
        grammar=request.grammar,
        prompt_param=prompt.param,
    )


class PromptScores:
    """Collects the logprobs of the prompts' tokens."""

    def __init__(self, request: CompletionRequest) -> None:
        self._echoed = request.logprobs if request.echo else None
        self.tokens: list[list[PromptToken]] = [[] for _ in request.prompts]

    def awaited(self, prompt: int, n_tokens: int) -> bool:
        """Whether a prompt's echo still waits for logprobs of its tokens."""
        return self._echoed is not None and len(self.tokens[prompt]) < n_tokens


class _Choice:
    """One choice while it is generated."""

    def __init__(self, request: CompletionRequest, prompt: int, prompt_text: str) -> None:
        self._request = request
        self._legacy = LegacyLogprobs(prompt_text)
        self.prompt = prompt
        self.echo = prompt_text if request.echo else ""
        self.texts: list[str] = []
        self.tokens: list[TokenLogprob] = []
        self.reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Add the next delta."""
        self.texts.append(delta.text)
        self.tokens += delta.logprobs
        self.reason = delta.finish_reason

    @property
    def mean_logprob(self) -> float:
        """The mean over the choice's tokens, including the token that ended it."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))

    def echo_logprobs(self, tokens: Sequence[PromptToken]) -> dict[str, Any] | None:
        """Return the legacy logprobs object of the echoed prompt."""
        if self._request.logprobs is None or not self._request.echo:
            return None
        return self._legacy.of_prompt(tokens, self._request.logprobs)

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """Return the legacy logprobs object of the choice's next tokens."""
        return None if self._request.logprobs is None else self._legacy.of_answer(tokens)

    def body(self, index: int, prompt: Sequence[PromptToken]) -> dict[str, Any]:
        """Return the finished choice."""
        result = {
            "text": self.echo + "".join(self.texts),
            "index": index,
            "logprobs": joined(self.echo_logprobs(prompt), self.logprobs(self.tokens)),
            "finish_reason": self.reason,
        }
        if self._request.prompt_logprobs is not None:
            result["prompt_logprobs"] = prompt_logprobs(prompt, self._request.prompt_logprobs)
        return result


class Choices(dict[int, _Choice]):
    """The choices of all prompts by their index.

    Each is made on first access, after its prompt was accepted: by then the text of a prompt of
    token ids is known.
    """

    def __init__(self, request: CompletionRequest, group: GenerationGroup) -> None:
        super().__init__()
        self._request = request
        self._group = group

    def __missing__(self, index: int) -> _Choice:
        number = index // self._request.candidates
        content = self._request.prompts[number].content
        text = content if isinstance(content, str) else self._group.prompt_text(number)
        choice = self[index] = _Choice(self._request, number, text)
        return choice


def whole_answer(
    head: dict[str, Any],
    request: CompletionRequest,
    group: GenerationGroup,
    choices: Choices,
    scores: PromptScores,
) -> dict[str, Any]:
    total = Total()
    for index, delta in group.by_prompt():
        total.add(index, delta)
        scores.tokens[choices[index].prompt] += delta.prompt
        if not delta.prompt:
            choices[index].add(delta)
    ordered = [choices[index] for index in sorted(choices)]
    bodies = [
        choice.body(index, scores.tokens[choice.prompt])
        for index, choice in enumerate(_best(request, ordered))
    ]
    return {
        **head,
        "choices": bodies,
        "usage": total.usage(group.prompt_tokens),
        "timings": total.timings(group.prompt_tokens),
    }


def _best(request: CompletionRequest, choices: list[_Choice]) -> list[_Choice]:
    """Return the ``n`` best choices of each prompt, best first; all in order if ``n`` is all."""
    if request.candidates == request.n:
        return choices
    best = []
    for begin in range(0, len(choices), request.candidates):
        candidates = choices[begin : begin + request.candidates]
        best += sorted(candidates, key=lambda choice: -choice.mean_logprob)[: request.n]
    return best


def stream_answer(
    head: dict[str, Any],
    request: CompletionRequest,
    group: GenerationGroup,
    choices: Choices,
    scores: PromptScores,
) -> Iterator[Chunk]:
    total = Total()
    to_end = len(request.prompts) * request.n

    def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        result = {**head, "choices": [choice]}
        if request.include_usage:
            result["usage"] = None
        if request.obfuscate:
            result["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
        nonlocal to_end
        to_end -= reason is not None
        ends = to_end == 0 and not request.include_usage
        if ends or (request.timings_per_token and total.begun):
            result["timings"] = total.timings(group.prompt_tokens)
        return result

    def echo(prompt: int) -> Iterator[Any]:
        for index in range(prompt * request.n, (prompt + 1) * request.n):
            choice = choices[index]
            yield chunk(index, choice.echo, choice.echo_logprobs(scores.tokens[prompt]))

    def answer(index: int, delta: Delta) -> Iterator[Any]:
        if delta.text or delta.logprobs or delta.finish_reason:
            logprobs = choices[index].logprobs(delta.logprobs)
            yield chunk(index, delta.text, logprobs, delta.finish_reason)

    plain = request.echo and request.logprobs is None
    to_echo = set(range(len(scores.tokens))) if plain else set()
    held: list[tuple[int, Delta]] = []
    for item in group.deltas():
        if not isinstance(item, tuple):
            yield item
            continue
        index, delta = item
        total.add(index, delta)
        prompt = choices[index].prompt
        if delta.progress is not None:
            yield with_progress(chunk(index, ""), delta, group.prompt_length(prompt))
        elif delta.prompt:
            scores.tokens[prompt] += delta.prompt
            if not scores.awaited(prompt, group.prompt_length(prompt)):
                yield from echo(prompt)
                for early in [pair for pair in held if choices[pair[0]].prompt == prompt]:
                    held.remove(early)
                    yield from answer(*early)
        elif scores.awaited(prompt, group.prompt_length(prompt)):
            held.append(item)  # the choice that brings the prompt's logprobs is not as far yet
        else:
            if prompt in to_echo:
                to_echo.remove(prompt)
                yield from echo(prompt)
            yield from answer(index, delta)
    if request.include_usage:
        yield {
            **head,
            "choices": [],
            "usage": total.usage(group.prompt_tokens),
            "timings": total.timings(group.prompt_tokens),
        }
