"""What ``POST /v1/models/{id}/...`` does with a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import falcon
import msgspec

from offgrid.api.engines import wait_of
from offgrid.api.fields import notices
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.keep_alive import seconds_of
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.models.describe import Describer, name_in
from offgrid.api.models.following import follow
from offgrid.api.models.shapes import (
    DefaultRequest,
    LoadRequest,
    PinRequest,
    RemoveRequest,
    UnloadRequest,
)
from offgrid.api.transfers.resources import send
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import Use
from offgrid.errors import InvalidParameter, ModelLoadFailed, ModelNotChanged, TransferError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.removal import files_to_remove, remove_files
from offgrid.store.survey import ModelEntry, reason_of

S = TypeVar("S", bound=msgspec.Struct)
Action = Callable[[falcon.Request, falcon.Response, ModelEntry], None]


class Actions:
    """The actions, each called with a request, its response and a model that the caller may use.

    Attributes:
        by_name: the actions by the last part of their path.
    """

    def __init__(
        self, catalogue: Catalogue, pool: EnginePool, settings: Settings, hashes: Hashes
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval
        self._models_dir = settings.models_dir
        self.by_name: Mapping[str, Action] = {
            "load": self._load,
            "unload": self._unload,
            "pin": self._pin,
            "unpin": self._unpin,
            "default": self._default,
            "remove": self._remove,
        }

    def _details(self, entry: ModelEntry) -> dict[str, Any]:
        """Describe a model as it is now."""
        now = self._catalogue.get(entry.id)
        return Describer(self._catalogue, self._pool, self._hashes).details(now)

    def _load(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Load a model, and tell when it is loaded, or how far it is, or that it has begun."""
        request = self._read(req, LoadRequest)
        keep_alive = seconds_of(request.keep_alive)
        if keep_alive is not None and entry.pinned:
            notices.ignore("keep_alive")
        if request.wait and not request.stream:
            alive = bounds().within(liveness(req))
            self._pool.engine(entry.id, alive, Use(keep_alive, wait_of(req), owner=owner()))
        else:
            self._pool.load(entry.id, keep_alive)
        if request.stream:
            frames = follow(
                self._pool, entry, lambda: self._details(entry), self._ping_interval, liveness(req)
            )
            send(resp, frames, lambda: None)
            return
        resp.status = 200 if request.wait else 202
        resp.media = self._details(entry)

    def _unload(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Unload a model."""
        request = self._read(req, UnloadRequest)
        self._pool.unload(entry.id, bounds().within(liveness(req)), wait=request.wait)
        resp.status = 200 if request.wait else 202
        resp.media = self._details(entry)

    def _pin(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Let a model be loaded at every start, and stay loaded."""
        self._read(req, PinRequest)
        problem = self._catalogue.describe(entry).problem
        if problem is not None:
            raise ModelLoadFailed(f"The model {entry.id} cannot be pinned: {problem}.", "model")
        if not entry.own.pin:
            self._catalogue.preferences.set_pinned(entry.id, True)
        self._pool.pin(entry, True)
        resp.media = self._details(entry)

    def _unpin(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Let a model be unloaded like others."""
        self._read(req, PinRequest)
        if entry.own.pin:
            raise ModelNotChanged(
                f"The settings pin {entry.id}. Set pin = false in {entry.own.key('pin')}.",
                "model",
                code="set_by_settings",
            )
        self._catalogue.preferences.set_pinned(entry.id, False)
        self._pool.pin(entry, False)
        resp.media = self._details(entry)

    def _default(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Let a model answer the requests that name none, or take that back."""
        request = self._read(req, DefaultRequest)
        if self._catalogue.default_id is not None:
            raise ModelNotChanged(
                f"The settings say that {self._catalogue.default_id} is the default model "
                "(OFFGRID_MODEL, or a file on the command line). Change it there.",
                "model",
                code="set_by_settings",
            )
        problem = self._catalogue.describe(entry).problem
        if request.default and problem is not None:
            raise ModelLoadFailed(
                f"The model {entry.id} cannot be the default model: {problem}.", "model"
            )
        if request.default:
            self._catalogue.preferences.set_default(entry.id)
        elif self._catalogue.preferences.read().default == entry.id:
            self._catalogue.preferences.set_default("")
        resp.media = self._details(entry)

    def _remove(self, req: falcon.Request, resp: falcon.Response, entry: ModelEntry) -> None:
        """Unload a model and delete its files."""
        request = self._read(req, RemoveRequest, optional=False)
        if request.confirm != entry.id:
            raise InvalidParameter(
                f"confirm must be the whole id of the model that is to be deleted: {entry.id}.",
                "confirm",
            )
        files = files_to_remove(entry)
        self._check_removable(entry, files)
        self._pool.unload(entry.id, bounds().within(liveness(req)))
        size = sum(map(_size, files))
        try:
            remove_files(files, self._models_dir)
        except TransferError as ex:
            reason = "another import or download uses the models directory; try again later"
            if ex.code != "busy":
                reason = "the models directory cannot be changed"
            raise _not_removable(entry, reason) from None
        except OSError as ex:
            raise _not_removable(entry, reason_of(ex)) from None
        self._catalogue.preferences.forget(entry.id)
        resp.media = {
            "id": entry.id,
            "object": "model.removed",
            "removed": True,
            "files": [name_in(path, [self._models_dir]) for path in files],
            "bytes_freed": size,
        }

    def _check_removable(self, entry: ModelEntry, files: list[Path]) -> None:
        """Refuse to delete what is no file of this model alone, or not in the models directory.

        Raises:
            ModelNotChanged: the message says why.
        """
        if entry.own.base is not None:
            reason = f"it has no file; the settings make it of {entry.own.base}"
            raise _not_removable(entry, reason)
        if entry.path == STARTER_PATH:
            raise _not_removable(entry, "it is a part of OffGrid")
        if not all(path.is_relative_to(self._models_dir) for path in files):
            raise _not_removable(entry, "it is not in the models directory; delete it there")
        users = [
            other.id
            for other in self._catalogue.entries()
            if other.id != entry.id
            and not {*other.files, *other.draft, *other.adapters}.isdisjoint(files)
        ]
        if users:
            reason = f"the settings make other models of it: {', '.join(users)}"
            raise _not_removable(entry, reason)

    def _read(self, req: falcon.Request, kind: type[S], *, optional: bool = True) -> S:
        return read_checked(
            req, self._max_body, lambda body: check_fields(body, kind), optional=optional
        )


def _not_removable(entry: ModelEntry, reason: str) -> ModelNotChanged:
    message = f"{entry.id} cannot be removed: {reason}."
    return ModelNotChanged(message, "model", code="not_removable")


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
