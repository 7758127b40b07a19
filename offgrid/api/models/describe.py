"""Describes models for the API. Reading is no use of a model: it keeps none loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.loaded import draft_name
from offgrid.config import FOREVER
from offgrid.engine.client.estimate import PARTS
from offgrid.engine.client.fit import UNLIMITED, Fit
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.survey import ModelEntry, Skipped


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


class Describer:
    """Makes the descriptions of models, as they are when it is made.

    Args:
        catalogue: the models on disk.
        pool: the loaded models.
        hashes: the known hashes of files.
    """

    def __init__(self, catalogue: Catalogue, pool: EnginePool, hashes: Hashes) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes
        self._aliases = catalogue.aliases()
        self._default = catalogue.default

    def listed(self, entry: ModelEntry) -> dict[str, Any]:
        """Return the object of a model in the list."""
        description = self._catalogue.describe(entry)
        state = self._pool.status(entry)
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
            "aliases": self._aliases.get(entry.id, []),
            "base": entry.own.base,
            "status": state.status,
            "progress": round(state.progress, 3),
            "default": entry.id == self._default,
            "pinned": entry.pinned,
            "fixed": fixed(self._catalogue, entry),
            "peer": None,
        }

    def details(self, entry: ModelEntry) -> dict[str, Any]:
        """Return the whole object of a model."""
        description = self._catalogue.describe(entry)
        return {
            **self.listed(entry),
            "chat_format": self._chat_format(entry),
            "sha256": None if entry.parts else self._hashes.get(entry.path),
            "problem": description.problem or self._pool.status(entry).error,
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
            "pin": entry.pinned,
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


def fixed(catalogue: Catalogue, entry: ModelEntry) -> list[str]:
    """Return what the settings have decided for a model: ``default``, ``pinned``."""
    decided = {"default": catalogue.default_id is not None, "pinned": entry.own.pin}
    return [name for name, holds in decided.items() if holds]


def unusable(
    files: Iterable[Skipped], entries: Sequence[ModelEntry], places: Sequence[Path]
) -> list[dict[str, Any]]:
    """Return the objects of files that cannot be used.

    Args:
        files: the files, and why.
        entries: all models, also those that cannot be used.
        places: the files and folders in which models are looked for.
    """
    ids = {entry.id for entry in entries}
    return [
        {
            "file": name_in(file.path, places),
            "reason": file.reason,
            "code": file.code,
            "id": file.id if file.id in ids else None,
        }
        for file in files
    ]


def name_in(path: Path, places: Iterable[Path]) -> str:
    """Return the path below a folder of models: clients learn no paths of this machine."""
    name = Path(path.name)
    for place in places:
        if path != place and path.is_relative_to(place):
            name = path.relative_to(place)
            break
    return _unicode(name)


def _unicode(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")
