"""``GET /v1/models`` and ``GET /v1/models/{id}``; ``POST`` below the latter loads and unloads.

Reading is no use of a model: it keeps none loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import falcon
import msgspec
from msgspec import Meta

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.engines import wait_of
from offgrid.api.fields import notices
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.keep_alive import KeepAlive, seconds_of
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.loaded import draft_name
from offgrid.api.shapes import Answer, Count
from offgrid.config import FOREVER, Settings
from offgrid.engine.client.estimate import PARTS
from offgrid.engine.client.fit import UNLIMITED, Fit
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import ModelStatus, Status, Use
from offgrid.errors import InvalidParameter
from offgrid.store.catalogue import Catalogue
from offgrid.store.description import Description
from offgrid.store.hashes import Hashes
from offgrid.store.survey import ModelEntry, Skipped

S = TypeVar("S", bound=msgspec.Struct)


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
    base: Annotated[
        str | None, Meta(description="The model whose file it uses, if it has none of its own.")
    ]
    status: Annotated[
        Status,
        Meta(
            description="`waiting` means that it will be loaded when another model has made room; "
            "`unloading` that it takes no requests and ends when those that run are answered."
        ),
    ]
    progress: Annotated[
        float, Meta(ge=0, le=1, description="The part of its weights that is loaded.")
    ]


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
    checkpoints: Annotated[
        int, Meta(ge=0, description="Copies of the states of recurrent layers and sliding windows.")
    ]
    compute: Annotated[int, Meta(ge=0, description="What a step computes.")]
    vocabulary: Annotated[int, Meta(ge=0, description="Tables of the tokens.")]
    projector: Annotated[
        int, Meta(ge=0, description="The projector for images, once an image has come.")
    ]
    process: Annotated[int, Meta(ge=0, description="The worker without a model.")]
    prefixes: Annotated[
        int, Meta(ge=0, description="Saved prefixes, once so many were evicted from slots.")
    ]
    draft: Annotated[int, Meta(ge=0, description="The draft model, all of its parts.")]


class Memory(Answer):
    """The memory that a model takes, estimated from its header and the settings. For a model that
    is not loaded, as it would be loaded now."""

    estimate: Annotated[int, Meta(ge=0, description="Bytes of memory of its worker.")]
    needs: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes that must be free to load it. Less than the estimate if use_mmap "
            "is set, because the system can read mapped weights again, and if cache_ram_mb is not "
            "set, because saved prefixes get what is left.",
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


class LoraAdapter(Answer):
    """A LoRA adapter, and the factor by which its effect is multiplied."""

    file: str
    scale: float


class SettingsInForce(Answer):
    """The settings of a model: its own, or those of the server."""

    ctx_size: Annotated[int, Meta(ge=0, description="Tokens of a slot; 0: as it was trained.")]
    parallel: Annotated[int, Meta(ge=1, description="Its slots.")]
    batch_size: Count
    threads: Annotated[int, Meta(ge=0, description="0: found by measuring.")]
    gpu_layers: Annotated[int, Meta(ge=-1, description="-1: all.")]
    flash_attention: Literal["auto", "on", "off"]
    kv_type_k: Annotated[str, Meta(description="Type of the keys in the cache.")]
    kv_type_v: Annotated[str, Meta(description="Type of the values in the cache.")]
    use_mmap: bool
    use_mlock: bool
    drafts: Annotated[bool, Meta(description="Whether proposed tokens are computed.")]
    chat_template: Annotated[
        bool, Meta(description="Whether the settings replace the template in its file.")
    ]
    draft_model: Annotated[
        str | None, Meta(description="File of its draft model; null if it has none.")
    ]
    system_prompt: str | None
    reasoning_budget: Annotated[
        int,
        Meta(ge=-1, description="Tokens of reasoning in an answer, by default; -1: no limit."),
    ]
    sampling: Annotated[
        dict[str, float | bool],
        Meta(description="Parameters of requests that do not set them, if they differ."),
    ]
    keep_alive: Annotated[
        float,
        Meta(ge=-1, description="Seconds that it stays loaded without requests; -1: for ever."),
    ]
    pin: Annotated[bool, Meta(description="Whether it is loaded at start and stays loaded.")]
    lora: list[LoraAdapter]


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
        str | None,
        Meta(
            description="Why its file cannot be used, or why it could not be loaded; null if "
            "nothing is known."
        ),
    ]
    memory: Annotated[
        Memory | None,
        Meta(description="Null if its file cannot be used, or with layers on a GPU."),
    ]
    settings: SettingsInForce


class ModelList(Answer):
    """All models that can be used, sorted by id, and the files that cannot."""

    object: Literal["list"]
    data: list[Model]
    unusable: list[UnusableFile]


class LoadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/load``; the body may be absent."""

    wait: bool = True
    """Whether to answer when the model is loaded, and not at once."""
    keep_alive: KeepAlive = None


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/unload``; the body may be absent."""

    wait: bool = True
    """Whether to answer when the model is unloaded, and not at once."""


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


def _describe(
    entry: ModelEntry,
    description: Description,
    aliases: Mapping[str, list[str]],
    state: ModelStatus,
) -> dict[str, Any]:
    """Return the object of a model in the list."""
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
        "base": entry.own.base,
        "status": state.status,
        "progress": round(state.progress, 3),
    }


class _Describer:
    """Makes the whole descriptions of models."""

    def __init__(self, catalogue: Catalogue, pool: EnginePool, hashes: Hashes) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes

    def details(self, entry: ModelEntry) -> dict[str, Any]:
        """Return the whole object of a model."""
        description = self._catalogue.describe(entry)
        state = self._pool.status(entry)
        return {
            **_describe(entry, description, self._catalogue.aliases(), state),
            "chat_format": self._chat_format(entry),
            "sha256": None if entry.parts else self._hashes.get(entry.path),
            "problem": description.problem or state.error,
            "memory": memory_of(self._pool.fit(entry)),
            "settings": self._settings(entry),
        }

    def _settings(self, entry: ModelEntry) -> dict[str, Any]:
        load = self._pool.load_command(entry)
        keep_alive = self._pool.keep_alive(entry)
        own = entry.own
        return {
            "ctx_size": load.ctx_size,
            "parallel": load.parallel,
            "batch_size": load.batch_size,
            "threads": load.threads,
            "gpu_layers": load.gpu_layers,
            "flash_attention": load.flash_attention,
            "kv_type_k": load.kv_type_k,
            "kv_type_v": load.kv_type_v,
            "use_mmap": load.use_mmap,
            "use_mlock": load.use_mlock,
            "drafts": load.drafts,
            "chat_template": entry.template is not None,
            "draft_model": draft_name(load),
            "system_prompt": own.system_prompt or None,
            "reasoning_budget": self._pool.roster.defaults(entry).reasoning_budget,
            "sampling": dict(own.sampling),
            "keep_alive": -1 if keep_alive == FOREVER else keep_alive,
            "pin": own.pin,
            "lora": [
                {"file": _unicode(Path(lora.path.name)), "scale": lora.scale} for lora in own.lora
            ],
        }

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


def _name(path: Path, places: Iterable[Path]) -> str:
    """Return the path below a folder of models: clients learn no paths of this machine."""
    name = Path(path.name)
    for place in places:
        if path != place and path.is_relative_to(place):
            name = path.relative_to(place)
            break
    return _unicode(name)


def _unicode(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


class ModelsResource:
    """All models, sorted by id."""

    def __init__(self, catalogue: Catalogue, pool: EnginePool) -> None:
        self._catalogue = catalogue
        self._pool = pool

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models."""
        entries, skipped = self._catalogue.survey()
        aliases = self._catalogue.aliases()
        data = []
        for entry in entries:
            problem = self._catalogue.fault(entry)
            if problem is None:
                description, state = self._catalogue.describe(entry), self._pool.status(entry)
                data.append(_describe(entry, description, aliases, state))
            else:
                skipped.append(Skipped(entry.path, problem, entry.id))
        unusable = [
            {"file": _name(file.path, self._catalogue.places), "reason": file.reason}
            for file in skipped
        ]
        resp.media = {"object": "list", "data": data, "unusable": unusable}

    on_head = on_get


class ModelResource:
    """One model.

    An id may contain slashes, so this resource also gets the paths that end with ``/load`` and
    ``/unload``. A model whose id ends like this can be described, loaded and unloaded all the same,
    because only POST reads the end of the path as an action.
    """

    def __init__(
        self, catalogue: Catalogue, pool: EnginePool, settings: Settings, hashes: Hashes
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._describer = _Describer(catalogue, pool, hashes)

    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Describe one model; returns 404 if no model has that id."""
        resp.media = self._describer.details(self._catalogue.get(model))

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Load or unload a model, and describe it afterwards."""
        name, _, action = model.rpartition("/")
        if action not in ("load", "unload") or not name:
            raise falcon.HTTPMethodNotAllowed(["GET", "HEAD", "OPTIONS"])
        entry = self._pool.find(name)
        done = self._load(req, entry) if action == "load" else self._unload(req, entry)
        resp.status = 200 if done else 202
        resp.media = self._describer.details(entry)

    def _load(self, req: falcon.Request, entry: ModelEntry) -> bool:
        """Load a model; return whether this waited until it was loaded."""
        request = self._read(req, LoadRequest)
        keep_alive = seconds_of(request.keep_alive)
        if keep_alive is not None and entry.own.pin:
            notices.ignore("keep_alive")
        if request.wait:
            self._pool.engine(entry.id, liveness(req), Use(keep_alive, wait_of(req)))
        else:
            self._pool.load(entry.id, keep_alive)
        return request.wait

    def _unload(self, req: falcon.Request, entry: ModelEntry) -> bool:
        """Unload a model; return whether this waited until it was unloaded."""
        request = self._read(req, UnloadRequest)
        self._pool.unload(entry.id, liveness(req), wait=request.wait)
        return request.wait

    def _read(self, req: falcon.Request, kind: type[S]) -> S:
        return read_checked(
            req, self._max_body, lambda body: check_fields(body, kind), optional=True
        )
