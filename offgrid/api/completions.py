"""``POST /v1/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import falcon

from offgrid.api.logprobs import LegacyLogprobs, joined, prompt_logprobs
from offgrid.api.request import liveness, read_checked
from offgrid.api.running import Running, Total
from offgrid.api.schema.completions import (
    CompletionRequest,
    Prompt,
    is_token,
    parse_completion,
)
from offgrid.api.sse import Chunk, send_stream
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol import Delta, GenerationRequest, Part, PromptToken, TokenLogprob
from offgrid.errors import InvalidParameter


class CompletionsResource:
    """Continues texts, whole or streamed."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, start, and answer whole or as a stream."""
        request = read_checked(req, self._max_body, parse_completion)
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        prompts = request.prompts
        if request.candidates > max(request.n, engine.capacity):
            raise InvalidParameter(
                f"best_of must be at most {engine.capacity} on this server (slots plus queue).",
                "best_of",
            )
        running = Running(engine, _generations(request, prompts), alive)
        resp.set_header("x-offgrid-seed", str(running.seed))
        head = {
            "id": f"cmpl-{secrets.token_hex(14)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": engine.info.fingerprint,
        }
        choices = _Choices(request, prompts, running)
        scores = _PromptScores(request, len(prompts))
        if request.stream:
            chunks = _chunks(head, request, running, choices, scores)
            send_stream(req, resp, chunks, running, self._ping_interval)
        else:
            resp.media = _whole(head, request, running, choices, scores)


def _generations(request: CompletionRequest, prompts: list[Prompt]) -> list[GenerationRequest]:
    """One for each prompt; errors name it by its place in the list, if it is in one."""
    if not isinstance(request.prompt, list) or is_token(request.prompt[0]):
        return [_generation(request, prompts[0], "prompt")]
    return [
        _generation(request, prompt, f"prompt[{index}]") for index, prompt in enumerate(prompts)
    ]


def _generation(request: CompletionRequest, prompt: Prompt, param: str) -> GenerationRequest:
    text = isinstance(prompt, str)
    top_logprobs = request.logprobs
    if top_logprobs is None and request.candidates > request.n:
        top_logprobs = 0  # the best are those with the best logprobs
    wanted = [request.prompt_logprobs, request.logprobs if request.echo else None]
    scored = [number for number in wanted if number is not None]
    return GenerationRequest(
        # A raw prompt is all scaffold: whoever writes one writes its control tokens too.
        parts=(Part(prompt, True),) if isinstance(prompt, str) else (),
        tokens=None if text else tuple(prompt),  # type: ignore[arg-type]
        sampling=request.sampling(),
        max_tokens=request.max_tokens,
        stop=request.stops,
        n=request.candidates,
        ignore_eos=request.ignore_eos,
        top_logprobs=top_logprobs,
        post_sampling=request.post_sampling_probs,
        end_logprob=True,
        prompt_logprobs=max(scored, default=None),
        echo=request.echo,
        suffix=request.suffix or None,
        cache_prompt=request.cache_prompt,
        grammar=request.grammar,
        prompt_param=param,
    )


class _PromptScores:
    """The logprobs of the prompts' tokens as they come."""

    def __init__(self, request: CompletionRequest, n_prompts: int) -> None:
        self._echoed = request.logprobs if request.echo else None
        self.tokens: list[list[PromptToken]] = [[] for _ in range(n_prompts)]

    def awaited(self, prompt: int, n_tokens: int) -> bool:
        """Whether an echo of a prompt still waits for some of them."""
        return self._echoed is not None and len(self.tokens[prompt]) < n_tokens


class _Choice:
    """One choice as it grows."""

    def __init__(self, request: CompletionRequest, prompt: int, prompt_text: str) -> None:
        self._request = request
        self._legacy = LegacyLogprobs(prompt_text)
        self.prompt = prompt
        self.echo = prompt_text if request.echo else ""
        self.texts: list[str] = []
        self.tokens: list[TokenLogprob] = []
        self.reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Take in what the next step says."""
        self.texts.append(delta.text)
        self.tokens += delta.logprobs
        self.reason = delta.finish_reason

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, the one that ended it included."""
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


class _Choices(dict[int, _Choice]):
    """The choices of all prompts by their index.

    Each is made when it is first asked for, after its prompt was accepted: what text token ids
    stand for is known then.
    """

    def __init__(self, request: CompletionRequest, prompts: list[Prompt], running: Running) -> None:
        super().__init__()
        self._request = request
        self._prompts = prompts
        self._running = running

    def __missing__(self, index: int) -> _Choice:
        number = index // self._request.candidates
        prompt = self._prompts[number]
        text = prompt if isinstance(prompt, str) else self._running.prompt_text(number)
        choice = self[index] = _Choice(self._request, number, text)
        return choice


def _whole(
    head: dict[str, Any],
    request: CompletionRequest,
    running: Running,
    choices: _Choices,
    scores: _PromptScores,
) -> dict[str, Any]:
    total = Total()
    for index, delta in running.whole():
        total.add(index, delta)
        scores.tokens[choices[index].prompt] += delta.prompt
        if not delta.prompt:
            choices[index].add(delta)
    ordered = [choices[index] for index in sorted(choices)]
    bodies = [
        choice.body(index, scores.tokens[choice.prompt])
        for index, choice in enumerate(_best(request, ordered))
    ]
    return {**head, "choices": bodies, "usage": total.usage(running.prompt_tokens)}


def _best(request: CompletionRequest, choices: list[_Choice]) -> list[_Choice]:
    """The ``n`` best of each prompt's candidates, best first; as they are where all are wanted."""
    if request.candidates == request.n:
        return choices
    best = []
    for begin in range(0, len(choices), request.candidates):
        candidates = choices[begin : begin + request.candidates]
        best += sorted(candidates, key=lambda choice: -choice.mean_logprob)[: request.n]
    return best


def _chunks(
    head: dict[str, Any],
    request: CompletionRequest,
    running: Running,
    choices: _Choices,
    scores: _PromptScores,
) -> Iterator[Chunk]:
    total = Total()

    def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        result = {**head, "choices": [choice]}
        if request.include_usage:
            result["usage"] = None
        if request.obfuscate:
            result["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
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
    for item in running.deltas():
        if not isinstance(item, tuple):
            yield item
            continue
        index, delta = item
        total.add(index, delta)
        prompt = choices[index].prompt
        if delta.prompt:
            scores.tokens[prompt] += delta.prompt
            if not scores.awaited(prompt, running.prompt_length(prompt)):
                yield from echo(prompt)
                for early in [pair for pair in held if choices[pair[0]].prompt == prompt]:
                    held.remove(early)
                    yield from answer(*early)
        elif scores.awaited(prompt, running.prompt_length(prompt)):
            held.append(item)  # another choice is ahead of the one that scores the prompt
        else:
            if prompt in to_echo:
                to_echo.remove(prompt)
                yield from echo(prompt)
            yield from answer(index, delta)
    if request.include_usage:
        yield {**head, "choices": [], "usage": total.usage(running.prompt_tokens)}
