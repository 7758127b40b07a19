"""``POST /v1/chat/completions``."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable

import falcon

from offgrid.api.chat_answer import Talk, stream_answer, whole_answer
from offgrid.api.request import liveness, read_object
from offgrid.api.running import Running
from offgrid.api.schema.chat import ChatRequest, parse_chat
from offgrid.api.sse import send_stream
from offgrid.chat.dialect import Dialect
from offgrid.config import Settings
from offgrid.engine.client import EngineClient
from offgrid.engine.pool import EnginePool
from offgrid.engine.protocol import GenerationRequest, ModelInfo, TokenQuery
from offgrid.errors import InvalidParameter


@functools.lru_cache(maxsize=16)
def _dialect(
    template: str | None, bos: str, eos: str, control: tuple[tuple[str, int], ...]
) -> Dialect:
    return Dialect(template, bos, eos, dict(control))


def talk_of(info: ModelInfo, request: ChatRequest) -> Talk:
    """Return a request in the model's way of talking.

    Raises:
        InvalidParameter: the model's template does not accept the messages, or there are images
            and the model does not see.
    """
    images = request.images()
    if images and not info.sees:
        raise InvalidParameter(
            "This model does not see images: there is no projector file beside it.",
            images[0][1].removesuffix(".image_url.url"),
            code="unsupported_parameter",
        )
    control = tuple(sorted(info.control_ids.items()))
    dialect = _dialect(info.chat_template, info.bos_text, info.eos_text, control)
    return Talk(request, dialect, images)


def count_tokens(
    engine: EngineClient, request: ChatRequest, param: str, alive: Callable[[], bool]
) -> int:
    """Return how many tokens the prompt of a request has; ``param`` is what errors name.

    Raises:
        RequestError: the model does not take it.
        ClientGone: ``alive`` said no.
    """
    talk = talk_of(engine.info, request)
    query = TokenQuery(
        parts=talk.prompt.parts,
        add_bos=True,
        param=param,
        images=talk.images,
        image_params=talk.image_params,
    )
    return len(engine.look_up(query, alive).tokens)


def start_chat(
    engine: EngineClient, request: ChatRequest, alive: Callable[[], bool]
) -> tuple[Talk, Running]:
    """Give a request to its model.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client is still connected.

    Raises:
        RequestError: the model does not take it; nothing is left running.
    """
    talk = talk_of(engine.info, request)
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    generation = GenerationRequest(
        parts=talk.prompt.parts,
        sampling=request.sampling(),
        max_tokens=request.token_limit,
        stop=talk.stops,
        n=request.n,
        ignore_eos=request.ignore_eos,
        top_logprobs=top_logprobs,
        post_sampling=request.post_sampling_probs,
        cache_prompt=request.cache_prompt,
        prompt_logprobs=request.prompt_logprobs,
        prompt_param="messages",
        grammar=talk.grammar,
        visible=talk.visible,
        images=talk.images,
        image_params=talk.image_params,
    )
    return talk, Running(engine, [generation], alive)


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
        talk, running = start_chat(engine, request, alive)
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
            chunks = stream_answer(head, talk, running)
            send_stream(req, resp, chunks, running, self._ping_interval)
        else:
            resp.media = whole_answer(head, talk, running)
