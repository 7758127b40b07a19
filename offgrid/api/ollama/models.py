"""``/api/version``, ``/api/tags``, ``/api/ps`` and ``/api/show``: the models, as Ollama lists them.

Reading is no use of a model: it keeps none loaded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import falcon
import msgspec

from offgrid import __version__
from offgrid.api.fields import notices
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import ANY_KEY, Scopes
from offgrid.api.loaded import memory_of_process
from offgrid.api.ollama.answer import to_time
from offgrid.api.ollama.names import digest_of, with_tag, without_tag
from offgrid.api.ollama.request import known_options, model_of, typed_fields
from offgrid.api.ownership import check_model, is_allowed
from offgrid.api.peers.listed import find_listed, of_peers
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, ModelNotFound
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.store.catalogue import Catalogue
from offgrid.store.description import Description
from offgrid.store.gguf_header import Header, read_header
from offgrid.store.survey import ModelEntry

LISTS: Scopes = {
    "GET": ("inference", "models", "stats"), "POST": ("inference", "models", "stats"),
}  # fmt: skip
"""Clients ask which models there are before they use one."""
FOR_EVER = "2318-01-01T00:00:00Z"
"""When a model that stays loaded is said to be unloaded: Ollama's clients expect a date."""


class VersionResource:
    """The version of the server."""

    scopes = ANY_KEY

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return this server's own version: it is not Ollama's."""
        resp.media = {"version": __version__}

    on_head = on_get


class _Models:
    """Describes models."""

    scopes = LISTS

    def __init__(
        self, catalogue: Catalogue, pool: EnginePool, forwarding: Forwarding | None = None
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._forwarding = forwarding

    def _details(self, entry: ModelEntry, description: Description) -> Json:
        family = description.architecture or ""
        return {
            "parent_model": entry.own.base or "",
            "format": "gguf",
            "family": family,
            "families": [family] if family else [],
            "parameter_size": human(description.parameters or 0),
            "quantization_level": description.quantization or "",
            "context_length": description.context_length or 0,
        }

    def _listed(self, entry: ModelEntry) -> Json:
        name = with_tag(entry.id)
        return {
            "name": name,
            "model": name,
            "size": entry.size,
            "digest": digest_of(entry),
            "details": self._details(entry, self._catalogue.describe(entry)),
        }


class TagsResource(_Models):
    """All models that can be used."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models that the caller may use, the newest file first; those of peers last."""
        entries = [
            entry
            for entry in self._catalogue.entries()
            if is_allowed(self._pool, entry) and self._catalogue.fault(entry) is None
        ]
        entries.sort(key=lambda entry: (-entry.created, entry.id))
        models = [
            {
                **self._listed(entry),
                "modified_at": to_time(entry.created),
                "capabilities": capabilities(entry, self._catalogue.describe(entry)),
            }
            for entry in entries
        ]
        models += [_of_peer(found.model) for found in of_peers(self._forwarding, self._pool)]
        resp.media = {"models": models}

    on_head = on_get


class PsResource(_Models):
    """The models that take memory now."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the loaded models that the caller may use, the last to be unloaded first."""
        models = [self._loaded(client, entry) for client, entry in self._shown()]
        models.sort(key=lambda model: model["expires_at"], reverse=True)
        resp.media = {"models": models}

    on_head = on_get

    def _shown(self) -> Iterator[tuple[EngineClient, ModelEntry]]:
        for client in self._pool.loaded():
            try:
                entry = self._pool.find(client.name)
            except ModelNotFound:  # its file is gone
                continue
            if is_allowed(self._pool, entry):
                yield client, entry

    def _loaded(self, client: EngineClient, entry: ModelEntry) -> Json:
        left = 0.0 if self._pool.leaves(client.name) else self._pool.time_left(client.name)
        size = memory_of_process(client.pid) or 0
        return {
            **self._listed(entry),
            "size": size,
            "size_vram": 0,
            "expires_at": FOR_EVER if left is None else to_time(time.time() + left),
            "context_length": client.info.n_ctx if client.ready else client.load.ctx_size,
        }


class OllamaShowRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model to describe; ``name`` is an older name of ``model``."""

    model: str = ""
    name: str = ""
    verbose: bool = False
    system: str = ""
    template: str = ""
    options: dict[str, Any] = {}


class ShowResource(_Models):
    """One model."""

    def __init__(
        self,
        catalogue: Catalogue,
        pool: EnginePool,
        settings: Settings,
        forwarding: Forwarding | None = None,
    ) -> None:
        super().__init__(catalogue, pool, forwarding)
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Describe one model; with ``verbose``, its tensors too."""
        asked = read_checked(req, self._max_body, _parse_show)
        name = without_tag(self._pool, model_of(asked.model, asked.name))
        far = find_listed(self._forwarding, self._pool, name)
        if far is not None:
            resp.media = _shown(far.model)
            return
        check_model(self._pool, name)
        entry = self._catalogue.get(name)
        description = self._catalogue.describe(entry)
        if description.problem is not None:
            raise InvalidParameter(
                f"The file of the model {entry.id} cannot be used: {description.problem}.", "model"
            )
        header = read_header(entry.path)
        resp.media = {
            **_settings_of(entry),
            "license": header.text("general.license") or "",
            "template": entry.template or header.text("tokenizer.chat_template") or "",
            "details": {
                **self._details(entry, description),
                "embedding_length": header.number(f"{description.architecture}.embedding_length")
                or 0,
            },
            "model_info": _information(header, description),
            "capabilities": capabilities(entry, description),
            "modified_at": to_time(entry.created),
            **({"tensors": _tensors(header)} if asked.verbose else {}),
        }


def _of_peer(model: Any) -> Json:
    """Return the object of a model of a peer in a list."""
    name = with_tag(model.id)
    stamp = model.sha256 or hashlib.sha256(f"{model.id} {model.size}".encode()).hexdigest()
    return {
        "name": name,
        "model": name,
        "size": model.size,
        "digest": stamp,
        "details": _details_of_peer(model),
        "modified_at": to_time(model.created),
        "capabilities": _abilities(model),
    }


def _details_of_peer(model: Any) -> Json:
    family = model.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": human(model.parameters or 0),
        "quantization_level": model.quantization or "",
        "context_length": model.context_length or 0,
    }


def _abilities(model: Any) -> list[str]:
    """Return what a model of a peer can do, in Ollama's words."""
    generates = model.kind in ("chat", "base")
    found = {
        "completion": generates,
        "embedding": model.kind == "embedding",
        "tools": generates and model.tools,
        "vision": model.vision,
        "thinking": generates and model.reasoning,
    }
    return [name for name, has in found.items() if has]


def _shown(model: Any) -> Json:
    """Describe a model of a peer, which has reported no template and no metadata."""
    family = model.architecture or ""
    lengths = {f"{family}.context_length": model.context_length} if model.context_length else {}
    return {
        "modelfile": f"FROM {with_tag(model.id)}\n",
        "parameters": "",
        "system": "",
        "license": "",
        "template": "",
        "details": {**_details_of_peer(model), "embedding_length": 0},
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.parameters or 0,
            **lengths,
        },
        "capabilities": _abilities(model),
        "modified_at": to_time(model.created),
    }


def _parse_show(body: Json) -> OllamaShowRequest:
    asked = typed_fields(body, OllamaShowRequest)
    known_options(asked.options)
    for name in ("system", "template", "options"):
        if getattr(asked, name):  # they would only be repeated
            notices.ignore(name)
    model_of(asked.model, asked.name)
    return asked


def _settings_of(entry: ModelEntry) -> Json:
    """Return what the settings of a model say, in the form of a Modelfile too."""
    parameters = [f"{_NAMES.get(name, name):<30} {value:g}" for name, value in entry.own.sampling]
    system = entry.own.system_prompt
    lines = [f"FROM {with_tag(entry.id)}", *(f"PARAMETER {line}" for line in parameters)]
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return {
        "modelfile": "\n".join(lines) + "\n",
        "parameters": "\n".join(parameters),
        "system": system,
    }


_NAMES = {"repetition_penalty": "repeat_penalty"}
"""Parameter -> its name in Ollama."""


def _information(header: Header, description: Description) -> Json:
    """Return the metadata of a model's file that describe the model."""
    values = {
        name: value for name, value in header.metadata.items()
        if not name.startswith("tokenizer.chat_template")
    }  # fmt: skip
    return {**values, "general.parameter_count": description.parameters or 0}


def _tensors(header: Header) -> list[Json]:
    return [
        {"name": tensor.name, "type": tensor.type, "shape": [*tensor.shape]}
        for tensor in header.shapes
    ]


def capabilities(entry: ModelEntry, description: Description) -> list[str]:
    """Return what a model can do, in Ollama's words."""
    generates = description.generates
    found = {
        "completion": generates,
        "embedding": description.kind == "embedding",
        "tools": generates and description.tools,
        "insert": description.inserts,
        "vision": entry.projector is not None,
        "thinking": generates and description.reasoning,
    }
    return [name for name, has in found.items() if has]


def human(number: int) -> str:
    """Return a number of parameters as Ollama writes it, such as ``134.52M`` and ``8.0B``."""
    for size, unit, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 2)):
        if number >= size:
            return f"{number / size:.{digits}f}{unit}"
    return str(number)
