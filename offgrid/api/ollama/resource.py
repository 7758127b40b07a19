"""``POST /api/chat`` and ``POST /api/generate``."""

from __future__ import annotations

import time
from collections.abc import Callable

import falcon
from msgspec import structs

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.chat.prompt import start_chat, warn_of_base
from offgrid.api.completions.call import CompletionCall
from offgrid.api.engines import engine_for
from offgrid.api.fields import notices
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.keep_alive import seconds_of
from offgrid.api.generation import GenerationGroup, Total
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.api.ollama.answer import (
    ChatForm,
    Clock,
    GenerateForm,
    Source,
    chunks,
    joined,
    now,
    of_chat,
    of_text,
)
from offgrid.api.ollama.convert import (
    Chat,
    Text,
    parse_chat_request,
    parse_generate_request,
)
from offgrid.api.ollama.framing import LINES
from offgrid.api.ollama.names import without_tag
from offgrid.api.ollama.request import OllamaChatRequest, OllamaGenerateRequest
from offgrid.api.ownership import check_model
from offgrid.api.responses.truncation import fitting
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, RequestError

Asked = OllamaChatRequest | OllamaGenerateRequest
_OF_LOADING = frozenset({"model", "keep_alive", "stream"})
"""Fields of a request that only loads or unloads a model. Clients send ``stream`` with every one;
the answer is a single line in any case."""


class _Resource:
    """What both endpoints do with a checked request."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

    def _answer(
        self, req: falcon.Request, resp: falcon.Response, asked: Chat | Text, began: int
    ) -> None:
        """Start the generation, and answer whole or as a stream."""
        alive = liveness(req)
        name = without_tag(self._pool, asked.request.model)
        request = structs.replace(asked.request, model=name)
        engine = engine_for(self._pool, req, request, alive, generates=True)
        clock = Clock(began, time.monotonic_ns())
        try:
            group, source, form = self._start(engine, asked, alive)
        except RequestError as ex:
            raise asked.renamed(ex) from ex
        total = Total()
        resp.set_header("x-offgrid-seed", str(group.seed))
        stream = asked.asked.stream
        parts = chunks(
            asked.asked.model or engine.name, source(total, not stream), group, total, form, clock,
            asked.renamed,
        )  # fmt: skip
        if stream:
            send_stream(req, resp, parts, group, self._ping_interval, framing=LINES)
        else:
            resp.media = joined(parts)
            group.cancel()

    def _start(
        self, engine: EngineClient, asked: Chat | Text, alive: Callable[[], bool]
    ) -> tuple[GenerationGroup, Callable[[Total, bool], Source], ChatForm | GenerateForm]:
        """Submit a request to its model; return the generation and how its answer is read."""
        given = asked.asked
        if isinstance(given, OllamaGenerateRequest) and _only_continues(engine, given):
            asked = Text(given)
        if isinstance(asked, Text):
            group = CompletionCall(engine, asked.request, alive).group
            return group, lambda total, whole: of_text(group, total, whole=whole), GenerateForm()
        warn_of_base(engine)
        _check_thinking(engine, asked)
        request = asked.request
        if asked.asked.truncate:
            request = fitting(engine, request, alive, "messages")
        prompt, group = start_chat(engine, request, alive)
        form = GenerateForm(asked.turns) if asked.turns else ChatForm()
        return group, lambda total, whole: of_chat(prompt, group, total, whole=whole), form

    def _load(self, req: falcon.Request, resp: falcon.Response, asked: Asked, said: Json) -> None:
        """Load or unload the model of a request that asks nothing."""
        _note_unused(asked)
        asked = structs.replace(asked, model=without_tag(self._pool, asked.model))
        check_model(self._pool, asked.model)
        entry = self._pool.find(asked.model)
        unload = seconds_of(asked.keep_alive) == 0 and not entry.pinned
        if unload:
            self._pool.unload(entry.id, bounds().within(liveness(req)), wait=False)
        else:
            engine_for(self._pool, req, asked, generates=True)
        resp.media = {
            "model": asked.model or entry.id,
            "created_at": now(),
            **said,
            "done": True,
            "done_reason": "unload" if unload else "load",
        }


class OllamaChatResource(_Resource):
    """Answers conversations, whole or streamed."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request; answer it, or load or unload the model if it has no messages."""
        began = time.monotonic_ns()
        asked = read_checked(req, self._max_body, parse_chat_request)
        if isinstance(asked, Chat):
            self._answer(req, resp, asked, began)
        else:
            self._load(req, resp, asked, ChatForm().said(""))


class OllamaGenerateResource(_Resource):
    """Answers a prompt, or continues a text, whole or streamed."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request; answer it, or load or unload the model if it has no prompt."""
        began = time.monotonic_ns()
        asked = read_checked(req, self._max_body, parse_generate_request)
        if isinstance(asked, (Chat, Text)):
            self._answer(req, resp, asked, began)
        else:
            self._load(req, resp, asked, GenerateForm().said(""))


def _note_unused(asked: Asked) -> None:
    """Note the fields that have no effect where a model is only loaded or unloaded."""
    nothing = type(asked)()
    for name in asked.__struct_fields__:
        if name not in _OF_LOADING and getattr(asked, name) != getattr(nothing, name):
            notices.ignore(name)


def _check_thinking(engine: EngineClient, asked: Chat) -> None:
    """Refuse a request for reasoning if the model does none.

    Raises:
        InvalidParameter: it does none.
    """
    if not asked.asked.think:
        return
    if not DIALECTS.of(engine.info, tools=bool(asked.request.offer.tools)).reasons:
        raise InvalidParameter(
            f'think: "{engine.name}" does not support thinking; leave the field out.',
            "think",
            code="unsupported_parameter",
        )


def _only_continues(engine: EngineClient, asked: OllamaGenerateRequest) -> bool:
    """Whether a base model, which has no chat template, is only asked to continue a text."""
    return engine.info.is_base and not (asked.system or asked.context or asked.images)
