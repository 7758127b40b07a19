"""Documents, ranked for a query."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import INERT, STAY


def rerank_requests(ranking: str) -> list[Full]:
    """The endpoint with both kinds of documents."""
    return [
        Full(
            "/v1/rerank",
            {"model": ranking, "query": "otter", "documents": ["river", {"text": "fox"}]},
            {**INERT, **NOTES, **STAY, "top_n": 1, "return_documents": True},
        )
    ]
