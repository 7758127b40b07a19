"""``POST /v1/embeddings``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import falcon
from msgspec import Meta

from offgrid.api.engines import engine_for
from offgrid.api.fields.body import are_tokens
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.http.meter import meter
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.shapes import Answer, Count, InputUsage
from offgrid.config import Settings
from offgrid.engine.client.pending import Vectors
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.requests import EmbeddingRequest
from offgrid.errors import InvalidParameter

MAX_INPUTS = 2048

Input = str | tuple[int, ...]


class EmbeddingsRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    keep_alive: KeepAlive = None

    def embedding(self) -> EmbeddingRequest:
        """Return the inputs in the engine's form.

        Raises:
            InvalidParameter: an input is empty, or neither text nor token ids; ``param`` names it.
        """
        inputs, params = _split(self.input)
        return EmbeddingRequest(inputs, dimensions=self.dimensions, params=params, owner=owner())


def parse_embeddings(body: dict[str, Any]) -> EmbeddingsRequest:
    """Check the body of an embeddings request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return check_fields(body, EmbeddingsRequest)


def _split(value: Any) -> tuple[tuple[Input, ...], tuple[str, ...]]:
    """Convert text, token ids, or a list of either into inputs and the names of their fields."""
    if isinstance(value, str) or are_tokens(value):
        return (_input(value, "input"),), ("input",)
    if not isinstance(value, list) or not value:
        raise InvalidParameter("input must be text, token ids, or a list of these.", "input")
    if len(value) > MAX_INPUTS:
        raise InvalidParameter(
            f"input takes at most {MAX_INPUTS} inputs, not {len(value)}.", "input"
        )
    params = tuple(f"input[{index}]" for index in range(len(value)))
    return tuple(map(_input, value, params)), params


def _input(value: Any, param: str) -> Input:
    if isinstance(value, str):
        if not value:
            raise InvalidParameter(f"{param} is empty.", param)
        return value
    if are_tokens(value):
        return tuple(value)
    raise InvalidParameter(f"{param} must be text or token ids.", param)


class Embedding(Answer):
    """A vector: its numbers, or their bytes (float32, little-endian) in base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(Answer):
    """A vector for each input, in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class EmbeddingsResource:
    """Turns texts into vectors."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, compute all vectors, then answer."""
        request = read_checked(req, self._max_body, parse_embeddings)
        work = request.embedding()
        alive = liveness(req)
        engine = engine_for(self._pool, req, request)
        result = engine.embed(work, bounds().within(alive), meter().prompt)
        resp.content_type = falcon.MEDIA_JSON
        # Send vector by vector: as text, vectors take many times their memory.
        resp.stream = _body(engine.name, result, request.encoding_format == "base64")


def _body(model: str, result: Vectors, as_base64: bool) -> Iterator[bytes]:
    """Yield the JSON of the answer."""
    yield b'{"object":"list","data":['
    for index, vector in enumerate(result.vectors):
        value = base64.b64encode(vector).decode("ascii") if as_base64 else result.values(index)
        item = {"object": "embedding", "index": index, "embedding": value}
        yield (b"," if index else b"") + json.dumps(item, separators=(",", ":")).encode()
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    yield f'],"model":{json.dumps(model)},"usage":{json.dumps(usage)}}}'.encode()
