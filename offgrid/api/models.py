"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import falcon
from msgspec import Meta

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.shapes import Answer
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter
from offgrid.store.catalogue import Catalogue, ModelEntry


class Model(Answer):
    """A model that requests can name by its id."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]
    owned_by: str


class ChatFormat(Answer):
    """How the model writes answers, recognised from its chat template."""

    tool_calls: Annotated[
        str,
        Meta(
            description="Family of the format of tool calls; derived for one that is in no table, "
            "generic if the template supports no calls and the server explains a format."
        ),
    ]
    reasoning: Annotated[
        list[str] | None,
        Meta(description="The markers before and after reasoning; null for a model without any."),
    ]


class ModelDetails(Model):
    """A model, and what is known of it once it is loaded."""

    chat_format: Annotated[
        ChatFormat | None,
        Meta(description="Null until the model is loaded, and for models that cannot chat."),
    ]


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

    def __init__(self, catalogue: Catalogue, pool: EnginePool) -> None:
        self._catalogue = catalogue
        self._pool = pool

    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Describe one model; returns 404 if no model has that id."""
        entry = self._catalogue.get(model)
        resp.media = {**_describe(entry), "chat_format": self._chat_format(entry)}

    on_head = on_get

    def _chat_format(self, entry: ModelEntry) -> dict[str, Any] | None:
        info = self._pool.info(entry.id)
        if info is None or not info.generates:
            return None
        try:
            dialect = DIALECTS.of(info)
        except InvalidParameter:  # The template is not valid; chat requests say so.
            return None
        markers = dialect.reasoning_markers
        return {"tool_calls": dialect.family, "reasoning": list(markers) if markers else None}
