"""Embeddings."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import INERT, STAY


def embedding_requests(starter: str) -> list[Full]:
    """The endpoint with a text and with tokens."""
    return [
        Full(
            "/v1/embeddings",
            {"model": starter, "input": ["Once", [5, 6]]},
            {**INERT, **NOTES, **STAY, "dimensions": 8, "encoding_format": "base64"},
        )
    ]
