"""``GET /v1/loaded``: the models that take memory now. ``offgrid ps`` prints it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import falcon
import psutil
from msgspec import Meta

from offgrid.api.http.caller import caller
from offgrid.api.http.scopes import LOADED
from offgrid.api.ownership import is_allowed
from offgrid.api.shapes import Answer, Count, Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.commands import Load
from offgrid.errors import ModelNotFound


class Threads(Answer):
    """Numbers of threads of llama.cpp."""

    decode: Annotated[int, Meta(ge=1, description="In steps that only generate.")]
    prefill: Annotated[int, Meta(ge=1, description="In steps that compute chunks of prompts.")]


class Loaded(Answer):
    """A model that is loaded or being loaded."""

    id: str
    object: Literal["model.loaded"]
    status: Annotated[
        Literal["loading", "ready", "unloading"],
        Meta(
            description="A worker that has died is replaced by one that is loading. A model that "
            "is unloading takes no requests; those that run are answered first."
        ),
    ]
    progress: Annotated[
        float, Meta(ge=0, le=1, description="The part of its weights that is loaded.")
    ]
    pinned: Annotated[
        bool, Meta(description="Whether it stays loaded, unless a request asks to unload it.")
    ]
    memory: Annotated[
        Count | None,
        Meta(
            description="Bytes of its worker process that are in memory now, the mapped file "
            "included. They grow as its slots fill, up to the estimate in GET /v1/models/{id}."
        ),
    ]
    slots: Annotated[int, Meta(ge=1, description="Sequences that it generates at the same time.")]
    ctx_size: Annotated[
        Count | None, Meta(description="Tokens of the context of a slot; null while it loads.")
    ]
    flash_attention: Annotated[
        bool | None,
        Meta(
            description="Whether its sequences are computed with flash attention; null while it "
            "loads."
        ),
    ]
    attention_reason: Annotated[str | None, Meta(description="Why, in words; null while it loads.")]
    threads: Annotated[
        Threads | None,
        Meta(
            description="Threads that compute now, without those of a trial; null while it loads."
        ),
    ]
    sequences: Annotated[Count, Meta(description="Sequences that run or wait now.")]
    draft_model: Annotated[
        str | None, Meta(description="File of its draft model; null if it has none.")
    ]
    until: Annotated[
        int | None,
        Meta(description="When it is unloaded if no request comes, in seconds since 1970; null if "
             "it stays until another model needs its place, or is unloading."),
    ]  # fmt: skip


class LoadedList(Answer):
    """The models that are loaded or being loaded, the least recently used first."""

    object: Literal["list"]
    data: list[Loaded]


class LoadedResource:
    """The models that take memory now."""

    scopes = LOADED

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the loaded models that the caller may use. Asking is no use of a model."""
        data = [self._describe(client) for client in self._pool.loaded() if self._is_shown(client)]
        resp.media = {"object": "list", "data": data}

    def _is_shown(self, client: EngineClient) -> bool:
        try:
            return is_allowed(self._pool, self._pool.find(client.name))
        except ModelNotFound:  # its file is gone; only those who may use all models see it
            return caller().models is None

    def _describe(self, client: EngineClient) -> Json:
        ready, left = client.ready, self._pool.time_left(client.name)
        status = "ready" if ready else "loading"
        return {
            "id": client.name,
            "object": "model.loaded",
            "status": "unloading" if self._pool.leaves(client.name) else status,
            "progress": round(client.progress, 3),
            "pinned": client.pinned,
            "memory": memory_of_process(client.pid),
            "slots": client.load.parallel,
            "ctx_size": client.info.n_ctx if ready else None,
            "flash_attention": client.info.flash_attention if ready else None,
            "attention_reason": client.info.attention_reason if ready else None,
            "threads": dict(zip(("decode", "prefill"), client.threads, strict=False)) or None,
            "sequences": client.in_flight,
            "draft_model": draft_name(client.load),
            "until": None if left is None else int(time.time() + left),
        }

    on_head = on_get


def draft_name(load: Load) -> str | None:
    """Return the file name of a model's draft model; None if it has none."""
    if load.draft_model is None:
        return None
    return os.fsencode(Path(load.draft_model).name).decode("utf-8", "replace")


def memory_of_process(pid: int | None) -> int | None:
    """Return the bytes of a process in memory; None if it has ended."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
