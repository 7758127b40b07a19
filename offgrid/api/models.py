"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import falcon
from msgspec import Meta

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.shapes import Answer
from offgrid.engine.client.estimate import PARTS
from offgrid.engine.client.fit import UNLIMITED, Fit
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter
from offgrid.store.catalogue import Catalogue
from offgrid.store.description import Description
from offgrid.store.hashes import Hashes
from offgrid.store.survey import ModelEntry, Skipped


class Model(Answer):
    """A model that requests can name by its id."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]
    owned_by: str
    size: Annotated[int, Meta(ge=0, description="Bytes of its file, or of all its parts.")]
    kind: Annotated[
        Literal["chat", "base", "embedding", "rerank"] | None,
        Meta(
            description="What it is made for. A base model generates text, but has no chat "
            "template. Null, like the following fields, if the file cannot be used."
        ),
    ]
    architecture: str | None
    parameters: Annotated[int, Meta(ge=0)] | None
    quantization: str | None
    context_length: Annotated[
        int | None, Meta(description="Tokens of the context with which it was trained.")
    ]
    vision: Annotated[bool, Meta(description="Whether a projector for images is next to it.")]
    tools: Annotated[bool, Meta(description="Whether its chat template writes tools.")]
    reasoning: Annotated[bool, Meta(description="Whether its chat template mentions reasoning.")]
    aliases: Annotated[list[str], Meta(description="Further names, from the settings.")]


class UnusableFile(Answer):
    """A file that cannot be served."""

    file: Annotated[
        str, Meta(description="Its path in its folder of models; U+FFFD for bytes outside UTF-8.")
    ]
    reason: str


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


class MemoryParts(Answer):
    """The bytes that a model takes, by purpose."""

    weights: Annotated[int, Meta(ge=0, description="The weights as they are in the file.")]
    copies: Annotated[
        int,
        Meta(ge=0, description="Weights that are stored a second time, in another layout."),
    ]
    cache: Annotated[
        int, Meta(ge=0, description="Keys and values of all slots, and states of recurrent layers.")
    ]
    compute: Annotated[int, Meta(ge=0, description="What a step computes.")]
    vocabulary: Annotated[int, Meta(ge=0, description="Tables of the tokens.")]
    projector: Annotated[
        int, Meta(ge=0, description="The projector for images, once an image has come.")
    ]
    process: Annotated[int, Meta(ge=0, description="The worker without a model.")]


class Memory(Answer):
    """The memory that a model takes, estimated from its header and the settings. For a model that
    is not loaded, as it would be loaded now."""

    estimate: Annotated[int, Meta(ge=0, description="Bytes of memory of its worker.")]
    needs: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that must be free to load it. Less than the estimate if use_mmap "
            "is set, because the system can read mapped weights again.",
        ),
    ]
    free: Annotated[
        int | None,
        Meta(
            description="Bytes that are free for it, or were when it was loaded; null if that is "
            "not checked.",
        ),
    ]
    fits: Annotated[bool, Meta(description="Whether they are enough.")]
    slots: Annotated[int, Meta(ge=1)]
    context: Annotated[
        int,
        Meta(ge=0, description="Tokens of the context of each slot; 0 if it does not generate."),
    ]
    lowered: Annotated[
        list[str], Meta(description="Settings whose defaults were lowered so that it fits.")
    ]
    parts: MemoryParts


class ModelDetails(Model):
    """A model, and what is known of it once it is loaded."""

    chat_format: Annotated[
        ChatFormat | None,
        Meta(description="Null until the model is loaded, and for models that cannot chat."),
    ]
    sha256: Annotated[
        str | None,
        Meta(
            description="SHA-256 of its file in hex, if it was computed once, for example by an "
            "import; null otherwise, and for split models."
        ),
    ]
    problem: Annotated[
        str | None, Meta(description="Why its file cannot be used; null if nothing is known.")
    ]
    memory: Annotated[
        Memory | None,
        Meta(description="Null if its file cannot be used, or with layers on a GPU."),
    ]


class ModelList(Answer):
    """All models that can be used, sorted by id, and the files that cannot."""

    object: Literal["list"]
    data: list[Model]
    unusable: list[UnusableFile]


def _describe(
    entry: ModelEntry, description: Description, aliases: Mapping[str, list[str]]
) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": "offgrid-llm",
        "size": entry.size,
        "kind": description.kind if description.problem is None else None,
        "architecture": description.architecture,
        "parameters": description.parameters,
        "quantization": description.quantization,
        "context_length": description.context_length,
        "vision": entry.projector is not None,
        "tools": description.tools,
        "reasoning": description.reasoning,
        "aliases": aliases.get(entry.id, []),
    }


def _name(path: Path, places: Iterable[Path]) -> str:
    """Return the path below a folder of models: clients learn no paths of this machine."""
    name = Path(path.name)
    for place in places:
        if path != place and path.is_relative_to(place):
            name = path.relative_to(place)
            break
    return os.fsencode(name.as_posix()).decode("utf-8", "replace")


def memory_of(fit: Fit) -> dict[str, Any] | None:
    """Return what a model takes, as JSON; None if that is not known."""
    estimate = fit.estimate
    if estimate is None:
        return None
    return {
        "estimate": estimate.total,
        "needs": fit.needs,
        "free": None if fit.free >= UNLIMITED else fit.free,
        "fits": fit.fits,
        "slots": fit.load.parallel,
        "context": fit.context,
        "lowered": list(fit.lowered),
        "parts": {name: getattr(estimate, name) for name in PARTS},
    }


class ModelsResource:
    """All models, sorted by id."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models."""
        entries, skipped = self._catalogue.survey()
        aliases = self._catalogue.aliases()
        data = []
        for entry in entries:
            description = self._catalogue.describe(entry)
            if description.problem is None:
                data.append(_describe(entry, description, aliases))
            else:
                skipped.append(Skipped(entry.path, description.problem, entry.id))
        unusable = [
            {"file": _name(file.path, self._catalogue.places), "reason": file.reason}
            for file in skipped
        ]
        resp.media = {"object": "list", "data": data, "unusable": unusable}

    on_head = on_get


class ModelResource:
    """One model."""

    def __init__(self, catalogue: Catalogue, pool: EnginePool, hashes: Hashes) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes

    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Describe one model; returns 404 if no model has that id."""
        entry = self._catalogue.get(model)
        description = self._catalogue.describe(entry)
        resp.media = {
            **_describe(entry, description, self._catalogue.aliases()),
            "chat_format": self._chat_format(entry),
            "sha256": None if entry.parts else self._hashes.get(entry.path),
            "problem": description.problem,
            "memory": memory_of(self._pool.fit(entry)),
        }

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
