"""Moderations."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import INERT, STAY
from full_requests.shared.messages import IMAGE_URL


def moderation_requests(starter: str, seeing: str) -> list[Full]:
    """The endpoint with texts and with an image."""
    return [
        Full(
            "/v1/moderations",
            {"input": ["Once", "upon"]},
            {**INERT, **NOTES, **STAY, "model": starter},
        ),
        Full(
            "/v1/moderations",
            {
                "model": seeing,
                "input": [
                    {"type": "text", "text": "Look!"},
                    {"type": "image_url", "image_url": {"url": IMAGE_URL, "detail": "low"}},
                ],
            },
        ),
    ]
