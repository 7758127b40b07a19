"""Bodies, answers and events of ``/v1/models``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.shapes import Answer, Count, ErrorDetail
from offgrid.engine.client.use import Status
from offgrid.store.survey import Fault


class Model(Answer):
    """A model that requests can name by its id."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]
    owned_by: Annotated[
        str, Meta(description="The name of the peer that has it, or `offgrid-llm`.")
    ]
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
        str | None, Meta(description="The model whose file it uses, if it has no file itself.")
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
    default: Annotated[bool, Meta(description="Whether it answers requests that name no model.")]
    pinned: Annotated[bool, Meta(description="Whether it is loaded at start and stays loaded.")]
    fixed: Annotated[
        list[Literal["default", "pinned"]],
        Meta(
            description="Of these two, what the settings have decided, so that no request can "
            "change it for this model."
        ),
    ]
    peer: Annotated[
        str | None,
        Meta(description="The id of the peer that has it; null for a model of this machine."),
    ]


class UnusableFile(Answer):
    """A file that cannot be served."""

    file: Annotated[
        str, Meta(description="Its path in its folder of models; U+FFFD for bytes outside UTF-8.")
    ]
    reason: str
    code: Annotated[Fault, Meta(description="The reason in one word.")]
    id: Annotated[
        str | None,
        Meta(description="The id under which it can be described and removed, if it has one."),
    ]


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
    """The bytes that a model takes with full contexts, by purpose."""

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
    """The memory that a model takes with full contexts, estimated from its header and the
    settings. For a model that is not loaded, as it would be loaded now. ``GET /v1/loaded`` has the
    memory that a loaded one takes now."""

    estimate: Annotated[
        int,
        Meta(
            ge=0,
            description="Bytes of memory of its worker when the contexts of all slots are full. "
            "Until the model is loaded, the scores of attention are counted unless flash attention "
            "is certain; afterwards, what its worker has chosen.",
        ),
    ]
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
        Meta(
            description="Null until the model is loaded, for models that cannot chat, and for "
            "those of peers."
        ),
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
        Meta(
            description="Null if its file cannot be used, with layers on a GPU, and for a model of "
            "a peer."
        ),
    ]
    settings: Annotated[SettingsInForce | None, Meta(description="Null for a model of a peer.")]


class ModelList(Answer):
    """All models that can be used, sorted by id, and the files that cannot."""

    object: Literal["list"]
    data: list[Model]
    unusable: list[UnusableFile]


class DetailedModelList(Answer):
    """The same with the whole description of each model, for requests with ``details=true``."""

    object: Literal["list"]
    data: list[ModelDetails]
    unusable: list[UnusableFile]


class LoadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/load``; the body may be absent."""

    wait: bool = True
    """Whether to answer when the model is loaded, and not at once."""
    stream: bool = False
    """Whether to send events, the last one when the model is loaded or has failed to."""
    keep_alive: KeepAlive = None


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/unload``; the body may be absent."""

    wait: bool = True
    """Whether to answer when the model is unloaded, and not at once."""


class PinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/pin`` and ``unpin``: it has no fields, and may be absent."""


class DefaultRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/default``; the body may be absent."""

    default: bool = True
    """False takes that back, if it is this model."""


class RemoveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/models/{id}/remove``."""

    confirm: str
    """The whole id of the model again, so that no beginning of an id removes a model."""


class RemovedModel(Answer):
    """What was deleted."""

    id: str
    object: Literal["model.removed"]
    removed: Literal[True]
    files: Annotated[list[str], Meta(description="Paths in the models directory.")]
    bytes_freed: Count


class ModelLoadingEvent(Answer):
    """How far loading is; the first event, and one for each change."""

    type: Literal["model.loading"]
    id: str
    status: Literal["waiting", "loading"]
    progress: Annotated[float, Meta(ge=0, le=1)]


class ModelLoadedEvent(Answer):
    """The last event of a stream."""

    type: Literal["model.loaded"]
    model: ModelDetails


class ModelFailedEvent(Answer):
    """The last event of a stream, if the model was not loaded."""

    type: Literal["model.failed"]
    error: ErrorDetail


LOAD_EVENTS = (ModelLoadingEvent, ModelLoadedEvent, ModelFailedEvent)
