"""``POST /v1/chat/completions``."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Iterator
from typing import Any

import falcon

from offgrid.api.request import liveness, read_object
from offgrid.api.running import Running, Total
from offgrid.api.schema.chat import ChatRequest, parse_chat
from offgrid.api.sse import send_stream
from offgrid.chat.template import ChatTemplate
from offgrid.config import Settings
from offgrid.engine.pool import EnginePool
from offgrid.engine.protocol import Delta, GenerationRequest, ModelInfo, Part, TokenLogprob


@functools.lru_cache(maxsize=16)
def _template(
    source: str | None, bos: str, eos: str, control_texts: tuple[str, ...]
) -> ChatTemplate:
    return ChatTemplate(source, bos, eos, control_texts)


def _prompt(info: ModelInfo, request: ChatRequest) -> tuple[Part, ...]:
    template = _template(info.chat_template, info.bos_text, info.eos_text, info.control_texts)
    return template.render([message.for_template() for message in request.messages])


def _entry(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    content = [
        {
            **_entry(token.piece, token.logprob),
            "top_logprobs": [_entry(piece, logprob) for piece, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


class ChatResource:
    """Answers conversations, whole or streamed."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, start, and answer whole or as a stream."""
        request = parse_chat(read_object(req, self._max_body))
        alive = liveness(req)
        engine = self._pool.generator(request.model, alive)
        top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        generation = GenerationRequest(
            parts=_prompt(engine.info, request),
            sampling=request.sampling(),
            max_tokens=request.token_limit,
            stop=request.stops,
            n=request.n,
            ignore_eos=request.ignore_eos,
            top_logprobs=top_logprobs,
            post_sampling=request.post_sampling_probs,
            cache_prompt=request.cache_prompt,
            prompt_param="messages",
        )
        running = Running(engine, [generation], alive)
        resp.set_header("x-offgrid-seed", str(running.seed))
        head = {
            "id": f"chatcmpl-{secrets.token_hex(14)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": engine.info.fingerprint,
        }
        if request.stream:
            head["object"] = "chat.completion.chunk"
            chunks = _chunks(head, request, running)
            send_stream(req, resp, chunks, running, self._ping_interval)
        else:
            resp.media = _whole(head, request, running)


def _whole(head: dict[str, Any], request: ChatRequest, running: Running) -> dict[str, Any]:
    """Collect the answer."""
    total = Total()
    texts: list[list[str]] = [[] for _ in range(request.n)]
    reasons: list[str | None] = [None] * request.n
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
    running.wait()
    for item in running.deltas():
        if item is None:
            continue
        index, delta = item
        total.add(index, delta)
        texts[index].append(delta.text)
        logprobs[index] += delta.logprobs
        reasons[index] = delta.finish_reason
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(texts[index]),
                "refusal": None,
                "annotations": [],
            },
            "logprobs": _logprobs(tuple(logprobs[index])) if request.logprobs else None,
            "finish_reason": reasons[index],
        }
        for index in range(request.n)
    ]
    return {**head, "choices": choices, "usage": total.usage(running.prompt_tokens)}


def _chunks(
    head: dict[str, Any], request: ChatRequest, running: Running
) -> Iterator[dict[str, Any] | None]:
    """Yield the chunks of a stream: role, content, finish, and usage if asked for."""
    total = Total()

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        result: dict[str, Any] = {**head, "choices": [choice]}
        if request.include_usage:
            result["usage"] = None
        if request.obfuscate:
            result["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
        return result

    for index in range(request.n):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    for item in running.deltas():
        if item is None:
            yield None
            continue
        index, delta = item
        total.add(index, delta)
        if delta.text or delta.logprobs:
            yield chunk(index, {"content": delta.text}, logprobs=_delta_logprobs(request, delta))
        if delta.finish_reason is not None:
            yield chunk(index, {}, finish_reason=delta.finish_reason)
    if request.include_usage:
        yield {**head, "choices": [], "usage": total.usage(running.prompt_tokens)}


def _delta_logprobs(request: ChatRequest, delta: Delta) -> dict[str, Any] | None:
    return _logprobs(delta.logprobs) if request.logprobs else None
