"""``POST /v1/rerank``: the shape of Jina's and Cohere's API, as llama-server answers it."""

from __future__ import annotations

from typing import Any

import falcon

from offgrid.api.request import liveness, read_checked
from offgrid.api.schema.rerank import parse_rerank
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class RerankResource:
    """Orders documents by how well they fit a query."""

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, score, and answer best first; of equal scores the earlier document."""
        request = read_checked(req, self._max_body, parse_rerank)
        alive = liveness(req)
        result = self._pool.engine(request.model, alive).embed(request.embedding(), alive)
        scores = [result.values(index)[0] for index in range(len(result.vectors))]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        results = []
        for index in order[: request.top_n]:
            entry: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
            if request.return_documents:
                entry["document"] = {"text": request.texts[index]}
            results.append(entry)
        resp.media = {
            "object": "list",
            "model": request.model,
            "results": results,
            "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        }
