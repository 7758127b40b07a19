"""``POST /v1/messages``, and the count of a request's tokens."""

from __future__ import annotations

import falcon

from offgrid.api.anthropic.framing import MessageEvents
from offgrid.api.anthropic.request import ChatForm, parse_count, parse_messages, to_chat
from offgrid.api.anthropic.signature import Signer
from offgrid.api.anthropic.writer import MessageWriter
from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.chat.prompt import count_tokens, start_chat, warn_of_base
from offgrid.api.engines import engine_for
from offgrid.api.fields import notices
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.sse import send_stream
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import RequestError
from offgrid.store.signing_key import SigningKey


class MessagesResource:
    """Answers conversations, whole or streamed."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings, signer: Signer) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval
        self._signer = signer

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, start its generation, and answer whole or as a stream."""
        form = read_checked(
            req, self._max_body, lambda body: to_chat(parse_messages(body), self._signer)
        )
        alive = liveness(req)
        engine = engine_for(self._pool, req, form.request, generates=True)
        warn_of_base(engine)
        form = _fitting(form, engine)
        try:
            prompt, group = start_chat(engine, form.chat, alive)
        except RequestError as ex:
            raise form.renamed(ex) from ex
        resp.set_header("x-offgrid-seed", str(group.seed))
        writer = MessageWriter(form, engine.name, engine.info.n_ctx, prompt, group, self._signer)
        if form.request.stream:
            events = MessageEvents(req.context.record.id)
            send_stream(req, resp, writer.stream(), group, self._ping_interval, framing=events)
            return
        try:
            resp.media = writer.complete()
        except RequestError as ex:
            raise form.renamed(ex) from ex


class CountTokensResource:
    """``POST /v1/messages/count_tokens``: counts the tokens of a request's prompt."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings, signer: Signer) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._signer = signer

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count the tokens; the body is that of a request for a message."""
        form = read_checked(
            req, self._max_body, lambda body: to_chat(parse_count(body), self._signer)
        )
        alive = liveness(req)
        engine = engine_for(self._pool, req, form.request)
        form = _fitting(form, engine)
        try:
            count = count_tokens(engine, form.chat, "messages", alive)
        except RequestError as ex:
            raise form.renamed(ex) from ex
        resp.media = {"input_tokens": count}


def make_signer(settings: Settings) -> Signer:
    """Return what signs reasoning, with the key of this server."""
    return Signer(SigningKey(settings.responses_file))


def _fitting(form: ChatForm, engine: EngineClient) -> ChatForm:
    """Return the form for a model: one that does not reason needs no budget for it."""
    if not form.request.thinks or not engine.info.generates:
        return form
    chat = form.chat
    dialect = DIALECTS.of(engine.info, tools=bool(chat.offer.tools), documents=bool(chat.documents))
    if dialect.reasoning_places is not None:
        return form
    notices.ignore("thinking")
    return form.without_budget()
