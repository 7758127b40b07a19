"""``POST /v1/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import falcon

from offgrid.api.request import liveness, read_object
from offgrid.api.running import Running, Total
from offgrid.api.schema.completions import CompletionRequest, Prompt, parse_completion
from offgrid.api.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.pool import EnginePool
from offgrid.engine.protocol import Delta, GenerationRequest, Part, TokenLogprob


class CompletionsResource:
    """Continues texts, whole or streamed."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, start, and answer whole or as a stream."""
        request = parse_completion(read_object(req, self._max_body))
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        prompts = request.prompts
        running = Running(engine, [_generation(request, prompt) for prompt in prompts], alive)
        resp.set_header("x-offgrid-seed", str(running.seed))
        head = {
            "id": f"cmpl-{secrets.token_hex(14)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": engine.info.fingerprint,
        }
        choices = [
            _Choice(request, prompt, running.prompt_chars(index))
            for index, prompt in enumerate(prompts)
            for _ in range(request.n)
        ]
        if request.stream:
            chunks = _chunks(head, request, running, choices)
            send_stream(req, resp, chunks, running, self._ping_interval)
        else:
            resp.media = _whole(head, running, choices)


def _generation(request: CompletionRequest, prompt: Prompt) -> GenerationRequest:
    text = isinstance(prompt, str)
    return GenerationRequest(
        # A raw prompt is all scaffold: whoever writes one writes its control tokens too.
        parts=(Part(prompt, True),) if isinstance(prompt, str) else (),
        tokens=None if text else tuple(prompt),  # type: ignore[arg-type]
        sampling=request.sampling(),
        max_tokens=request.max_tokens,
        stop=request.stops,
        n=request.n,
        ignore_eos=request.ignore_eos,
        top_logprobs=request.logprobs,
        post_sampling=request.post_sampling_probs,
        cache_prompt=request.cache_prompt,
    )


class _Choice:
    """One choice as it grows. Offsets of logprobs count characters from the prompt's start."""

    def __init__(self, request: CompletionRequest, prompt: Prompt, prompt_chars: int) -> None:
        self._with_logprobs = request.logprobs is not None
        self._offset = len(prompt) if isinstance(prompt, str) else prompt_chars
        self.echo = prompt if request.echo and isinstance(prompt, str) else ""

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """Return the legacy logprobs object for the next tokens of the choice."""
        if not self._with_logprobs:
            return None
        offsets = []
        texts = [token.piece.decode("utf-8", "replace") for token in tokens]
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_alternatives(token) for token in tokens],
            "text_offset": offsets,
        }


def _alternatives(token: TokenLogprob) -> dict[str, float]:
    """Text to logprob: the top ones and the chosen one. Of equal texts the likelier stays, the
    chosen one always."""
    result: dict[str, float] = {}
    for piece, logprob in token.top:
        result.setdefault(piece.decode("utf-8", "replace"), logprob)
    result[token.piece.decode("utf-8", "replace")] = token.logprob
    return result


def _whole(head: dict[str, Any], running: Running, choices: list[_Choice]) -> dict[str, Any]:
    total = Total()
    texts = [[choice.echo] for choice in choices]
    logprobs: list[list[TokenLogprob]] = [[] for _ in choices]
    reasons: list[str | None] = [None] * len(choices)
    running.wait()
    for item in running.deltas():
        if item is None:
            continue
        index, delta = item
        total.add(index, delta)
        texts[index].append(delta.text)
        logprobs[index] += delta.logprobs
        reasons[index] = delta.finish_reason
    body = [
        {
            "text": "".join(texts[index]),
            "index": index,
            "logprobs": choice.logprobs(logprobs[index]),
            "finish_reason": reasons[index],
        }
        for index, choice in enumerate(choices)
    ]
    return {**head, "choices": body, "usage": total.usage(running.prompt_tokens)}


def _chunks(
    head: dict[str, Any], request: CompletionRequest, running: Running, choices: list[_Choice]
) -> Iterator[dict[str, Any] | None]:
    total = Total()

    def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        result = {**head, "choices": [choice]}
        if request.include_usage:
            result["usage"] = None
        if request.obfuscate:
            result["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
        return result

    for index, choice in enumerate(choices):
        if choice.echo:
            yield chunk(index, choice.echo)
    for item in running.deltas():
        if item is None:
            yield None
            continue
        index, delta = item
        total.add(index, delta)
        if _says_something(delta):
            logprobs = choices[index].logprobs(delta.logprobs)
            yield chunk(index, delta.text, logprobs, delta.finish_reason)
    if request.include_usage:
        yield {**head, "choices": [], "usage": total.usage(running.prompt_tokens)}


def _says_something(delta: Delta) -> bool:
    return bool(delta.text or delta.logprobs or delta.finish_reason)
