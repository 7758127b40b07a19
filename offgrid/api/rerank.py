"""``POST /v1/rerank``: the form of Jina's and Cohere's API, with llama-server's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import falcon
import msgspec
from msgspec import UNSET, Meta, UnsetType

from offgrid.api.engines import engine_for
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.http.meter import meter
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.shapes import Answer, Count, InputUsage, Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.requests import EmbeddingRequest
from offgrid.errors import InvalidParameter

MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as an object; the same as a plain text."""

    text: str


class RerankRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    return_documents: bool = False
    keep_alive: KeepAlive = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the documents, in order."""
        return tuple(d if isinstance(d, str) else d.text for d in self.documents)

    def embedding(self) -> EmbeddingRequest:
        """Return query and documents in the engine's form."""
        params = tuple(f"documents[{index}]" for index in range(len(self.documents)))
        return EmbeddingRequest(self.texts, query=self.query, params=params, owner=owner())


def parse_rerank(body: dict[str, Any]) -> RerankRequest:
    """Check the body of a rerank request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = check_fields(body, RerankRequest)
    for index, text in enumerate(request.texts):
        if not text:
            raise InvalidParameter(f"documents[{index}] is empty.", f"documents[{index}]")
    return request


class RerankDocument(Answer):
    text: str


class RerankResult(Answer):
    """A document by its index in the request; with its text if the request asks for it."""

    index: Count
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class Reranking(Answer):
    """The documents, the most relevant first."""

    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: InputUsage


def ranking(engine: EngineClient, request: RerankRequest, alive: Callable[[], bool]) -> Json:
    """Return the answer, best first; of equal scores the earlier document is first.

    Raises:
        RequestError: the model does not accept the request.
        ClientGone: ``alive`` returned False.
    """
    result = engine.embed(request.embedding(), bounds().within(alive), meter().prompt)
    scores = [result.values(index)[0] for index in range(len(result.vectors))]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = []
    for index in order[: request.top_n]:
        entry: Json = {"index": index, "relevance_score": scores[index]}
        if request.return_documents:
            entry["document"] = {"text": request.texts[index]}
        results.append(entry)
    return {
        "object": "list",
        "model": engine.name,
        "results": results,
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }


class RerankResource:
    """Orders documents by their relevance to a query."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, score, and answer."""
        request = read_checked(req, self._max_body, parse_rerank)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request)
        resp.media = ranking(engine, request, alive)
