"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import falcon
from msgspec import Meta

from offgrid.api.shapes import Answer
from offgrid.store.catalogue import Catalogue, ModelEntry


class Model(Answer):
    """A model that requests can name by its id."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]
    owned_by: str


class ModelList(Answer):
    """All models, sorted by id."""

    object: Literal["list"]
    data: list[Model]


def _describe(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": "offgrid-llm",
    }


class ModelsResource:
    """All models, sorted by id."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models."""
        data = [_describe(entry) for entry in self._catalogue.entries()]
        resp.media = {"object": "list", "data": data}

    on_head = on_get


class ModelResource:
    """One model."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Describe one model; returns 404 if no model has that id."""
        resp.media = _describe(self._catalogue.get(model))

    on_head = on_get
