"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import falcon

from offgrid.api.chat_answer import Talk, stream_answer, whole_answer
from offgrid.api.request import in_turn, liveness, read_checked
from offgrid.api.running import Running
from offgrid.api.schema.chat import ChatRequest, parse_chat
from offgrid.api.sse import send_stream
from offgrid.chat.dialect import Dialect
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.limits import check_message_count
from offgrid.engine.protocol import GenerationRequest, ModelInfo, TokenQuery
from offgrid.errors import InvalidParameter

_MAX_DIALECTS = 16


class _Dialects:
    """The dialects of the models that are loaded, each made once: a large vocabulary takes time.

    Whoever needs one that is being made waits for it; those of other models do not wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def of(self, info: ModelInfo) -> Dialect:
        """Return the dialect of a model; ``info`` is the object that its engine holds."""
        with self._lock:
            # By its identity: to compare two with thousands of tokens would take longer.
            known = self._known.get(id(info))
            if known is None:
                known = self._known[id(info)] = _Known(info)
            self._known.move_to_end(id(info))
            while len(self._known) > _MAX_DIALECTS:
                self._known.popitem(last=False)
        return known.dialect()


class _Known:
    def __init__(self, info: ModelInfo) -> None:
        self._info = info  # as long as it is held, nothing else has its id
        self._lock = threading.Lock()
        self._dialect: Dialect | None = None

    def dialect(self) -> Dialect:
        info = self._info
        with self._lock:
            if self._dialect is None:
                self._dialect = Dialect(
                    info.chat_template, info.bos_text, info.eos_text, info.control_ids, info.n_ctx
                )
            return self._dialect


_dialects = _Dialects()


def talk_of(info: ModelInfo, request: ChatRequest) -> Talk:
    """Return a request in the model's way of talking.

    Raises:
        InvalidParameter: the model's template does not accept the messages, or there are images
            and the model does not see.
        ContextLengthExceeded: the conversation is too long for the context.
    """
    check_message_count(len(request.messages), info.n_ctx, "messages")
    images = request.images()
    if images and not info.sees:
        raise InvalidParameter(
            "This model has no vision support: no projector (mmproj) file was found next to it.",
            images[0][1].removesuffix(".image_url.url"),
            code="unsupported_parameter",
        )
    dialect = _dialects.of(info)
    with in_turn():
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
        request = read_checked(req, self._max_body, parse_chat)
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
