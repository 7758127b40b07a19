"""The models of the server."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import STAY

MODELS = "/v1/models"


def model_requests(starter: str, spare: str) -> list[Full]:
    """The endpoints that load, keep and remove a model."""
    model = {"model": starter}
    return [
        Full(
            f"{MODELS}/{{model}}/load",
            {},
            {**NOTES, **STAY, "wait": True},
            ([{"stream": False}, {"stream": True}],),
            values=model,
        ),
        Full(f"{MODELS}/{{model}}/pin", {}, NOTES, values=model),
        Full(f"{MODELS}/{{model}}/unpin", {}, NOTES, values=model),
        Full(
            f"{MODELS}/{{model}}/default",
            {},
            NOTES,
            ([{"default": True}, {"default": False}],),
            values=model,
        ),
        Full(f"{MODELS}/{{model}}/remove", {"confirm": spare}, NOTES, values={"model": spare}),
        Full(f"{MODELS}/{{model}}/unload", {}, {**NOTES, "wait": True}, values=model),
    ]
