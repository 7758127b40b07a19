"""``POST /v1/embeddings``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import falcon

from offgrid.api.request import liveness, read_checked
from offgrid.api.schema.embeddings import parse_embeddings
from offgrid.config import Settings
from offgrid.engine.client.pending import Vectors
from offgrid.engine.client.pool import EnginePool


class EmbeddingsResource:
    """Turns texts into vectors."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, compute, and answer when all vectors are there."""
        request = read_checked(req, self._max_body, parse_embeddings)
        work = request.embedding()
        alive = liveness(req)
        result = self._pool.engine(request.model, alive).embed(work, alive)
        resp.content_type = falcon.MEDIA_JSON
        # In pieces: as text, thousands of vectors are many times as large as they are.
        resp.stream = _body(request.model, result, request.encoding_format == "base64")


def _body(model: str, result: Vectors, as_base64: bool) -> Iterator[bytes]:
    """Yield the JSON of the answer."""
    yield b'{"object":"list","data":['
    for index, vector in enumerate(result.vectors):
        value = base64.b64encode(vector).decode("ascii") if as_base64 else result.values(index)
        item = {"object": "embedding", "index": index, "embedding": value}
        yield (b"," if index else b"") + json.dumps(item, separators=(",", ":")).encode()
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    yield f'],"model":{json.dumps(model)},"usage":{json.dumps(usage)}}}'.encode()
