"""``POST /api/embed`` and its older form ``POST /api/embeddings``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import falcon
import msgspec
from msgspec import Meta, structs

from offgrid.api.embeddings import MAX_INPUTS
from offgrid.api.engines import engine_for
from offgrid.api.fields import notices
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.http.meter import meter
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.ollama.answer import Clock
from offgrid.api.ollama.names import without_tag
from offgrid.api.ollama.request import known_options, typed_fields
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pending import Vectors
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.context_length import text_limit, utf8_size
from offgrid.engine.protocol.requests import EmbeddingRequest, PromptPart, TokenQuery
from offgrid.errors import InvalidParameter

_AROUND = 2
"""Tokens that a model may put around an input."""
CUT = "inputs that were too long were cut at the end, as truncate asks"
"""The warning in the header of an answer."""


class OllamaEmbedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts to be turned into vectors. Without any, the model is only loaded."""

    model: str = ""
    input: Any = ""
    truncate: bool = False
    dimensions: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    keep_alive: KeepAlive = None
    options: dict[str, Any] = {}

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input


class OllamaEmbeddingsRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A text to be turned into a vector. Without it, the model is only loaded."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive = None
    options: dict[str, Any] = {}


def parse_embed(body: Json) -> OllamaEmbedRequest:
    """Check the body of a request to ``/api/embed``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    asked = typed_fields(body, OllamaEmbedRequest)
    _note_options(asked.options)
    texts = asked.texts
    if not isinstance(texts, list):
        raise InvalidParameter("input must be a text or a list of texts.", "input")
    if len(texts) > MAX_INPUTS:
        raise InvalidParameter(
            f"input takes at most {MAX_INPUTS} texts, not {len(texts)}.", "input"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str) or (isinstance(asked.input, list) and not text):
            raise InvalidParameter(
                f"input[{index}] must be a text that is not empty.", f"input[{index}]"
            )
    return asked


def parse_older(body: Json) -> OllamaEmbeddingsRequest:
    """Check the body of a request to ``/api/embeddings``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    asked = typed_fields(body, OllamaEmbeddingsRequest)
    _note_options(asked.options)
    return asked


def _note_options(options: Json) -> None:
    """Note that options do not change vectors. Clients send those of answers here as well."""
    for name in known_options(options):
        notices.ignore(f"options.{name}")


class _Resource:
    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def _engine(
        self,
        req: falcon.Request,
        asked: OllamaEmbedRequest | OllamaEmbeddingsRequest,
        alive: Callable[[], bool],
    ) -> EngineClient:
        asked = structs.replace(asked, model=without_tag(self._pool, asked.model))
        return engine_for(self._pool, req, asked, alive)

    @staticmethod
    def _vectors(
        engine: EngineClient,
        texts: list[str],
        params: list[str],
        alive: Callable[[], bool],
        dimensions: int = 0,
    ) -> Vectors:
        work = EmbeddingRequest(
            tuple(texts), dimensions=dimensions or None, params=tuple(params), owner=owner()
        )
        return engine.embed(work, bounds().within(alive), meter().prompt)


class EmbedResource(_Resource):
    """Turns texts into vectors."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, compute all vectors, then answer."""
        began = time.monotonic_ns()
        asked = read_checked(req, self._max_body, parse_embed)
        alive = liveness(req)
        engine = self._engine(req, asked, alive)
        clock = Clock(began, time.monotonic_ns())
        name = asked.model or engine.name
        texts = [text for text in asked.texts if text]
        if not texts:
            resp.media = {"model": name, "embeddings": [], **clock.durations(),
                          "prompt_eval_count": 0}  # fmt: skip
            return
        single = isinstance(asked.input, str)
        params = ["input"] if single else [f"input[{index}]" for index in range(len(texts))]
        if asked.truncate:
            texts = [
                _shortened(engine, text, param, bounds().within(alive))
                for text, param in zip(texts, params, strict=True)
            ]
        result = self._vectors(engine, texts, params, alive, asked.dimensions)
        resp.content_type = falcon.MEDIA_JSON
        # Send vector by vector: as text, vectors take many times their memory.
        resp.stream = _body(name, result, clock)


class OlderEmbeddingsResource(_Resource):
    """Turns a text into a vector."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, compute the vector, then answer."""
        asked = read_checked(req, self._max_body, parse_older)
        alive = liveness(req)
        engine = self._engine(req, asked, alive)
        if asked.prompt:
            result = self._vectors(engine, [asked.prompt], ["prompt"], alive)
            resp.media = {"embedding": result.values(0)}
        else:
            resp.media = {"embedding": []}


def _shortened(engine: EngineClient, text: str, param: str, alive: Callable[[], bool]) -> str:
    """Return the longest beginning of a text that the model can take.

    Raises:
        ClientGone: ``alive`` returned False.
    """
    n_ctx = engine.info.n_ctx
    room = n_ctx - _AROUND
    if utf8_size(text) <= room:  # no tokeniser makes more tokens than bytes
        return text

    def fits(length: int) -> bool:
        beginning = text[:length]
        if utf8_size(beginning) > text_limit(n_ctx):
            return False
        parts = (PromptPart(beginning, False),)
        query = TokenQuery(parts=parts, param=param, owner=owner())
        return len(engine.look_up(query, alive).tokens) <= room

    if fits(len(text)):
        return text
    least, most = 0, len(text) - 1
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    notices.warn(CUT)
    return text[:least]


def _body(model: str, result: Vectors, clock: Clock) -> Iterator[bytes]:
    """Yield the JSON of the answer."""
    yield b'{"model":%b,"embeddings":[' % json.dumps(model).encode()
    for index in range(len(result.vectors)):
        vector = json.dumps(result.values(index), separators=(",", ":")).encode()
        yield (b"," if index else b"") + vector
    rest = {**clock.durations(), "prompt_eval_count": result.prompt_tokens}
    yield b"]," + json.dumps(rest, separators=(",", ":")).encode()[1:]
