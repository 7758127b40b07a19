"""``/v1/export``: lists sticks, copies models to one of them, and tells how far an export is.

Only folders below the import roots are written to, whatever a key allows: the API has no other way
to a path of this machine. The configuration, which may contain secrets, is never exported here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import falcon

from offgrid.api.fields.common import check_fields
from offgrid.api.http.caller import caller
from offgrid.api.http.request import read_object
from offgrid.api.http.scopes import IMPORT
from offgrid.api.ownership import is_allowed
from offgrid.api.shapes import Json
from offgrid.api.transfers.resources import answer, described, resolved
from offgrid.api.transfers.running import Transfer, Transfers, plain_text, without_folder
from offgrid.api.transfers.shapes import ExportRequest
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, TransferError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.draft_models import with_drafts
from offgrid.store.exports import chosen, export_models
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome
from offgrid.store.media import media_of
from offgrid.store.names import MODELS_FOLDER
from offgrid.store.roots import Roots
from offgrid.store.survey import ModelEntry, Skipped


class Export(Transfer):
    """An export while it runs, and after.

    Args:
        request: what the client wants.
        entries: the models.
        left_out: files that cannot be exported because they cannot be used.
        dest: the folder, resolved.
        models_dir: the models directory.
        hashes: the known hashes of files.
    """

    kind = "export"
    different = "another file has this name there; replace: true replaces it"

    def __init__(
        self,
        request: ExportRequest,
        entries: Sequence[ModelEntry],
        left_out: Sequence[Skipped],
        dest: Path,
        models_dir: Path,
        hashes: Hashes,
    ) -> None:
        super().__init__()
        self._request = request
        self._entries = entries
        self._left_out = left_out
        self._dest = dest
        self._models_dir = models_dir
        self._hashes = hashes

    def copy_models(self) -> Sequence[Outcome]:
        """Export the models."""
        unusable = [Outcome("failed", file.path.name, file.reason) for file in self._left_out]
        for outcome in unusable:
            self.tell(outcome)
        made = export_models(
            self._entries,
            self._models_dir,
            self._dest,
            replace=self._request.replace,
            within=self._dest,
            report=self.report,
            tell=self.tell,
            plan=self.plan,
            hashes=self._hashes,
        )
        return [*unusable, *made]

    def asked(self) -> Json:
        """Return the fields of the request."""
        request = self._request
        return {
            "path": request.path,
            "ids": list(request.ids),
            "replace": request.replace,
            "background": request.background,
        }

    def told(self, text: str) -> str:
        """Return a reason without the folders of the models."""
        files = [path for entry in self._entries for path in entry.files]
        for folder in dict.fromkeys([self._models_dir, *(file.parent for file in files)]):
            text = without_folder(text, folder)
        return plain_text(text)


class ExportsResource:
    """``GET`` and ``POST /v1/export``."""

    scopes = IMPORT

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        pool: EnginePool,
        exports: Transfers[Export],
        hashes: Hashes,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._pool = pool
        self._exports = exports
        self._hashes = hashes
        self._roots = Roots(settings.import_roots)
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the sticks and folders of the import roots."""
        running = self._exports.running
        resp.media = {
            "object": "list",
            "data": [described(medium) for medium in media_of(self._roots)],
            "running": running.id if running is not None else None,
        }

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Export models: wait for the end, stream events, or answer at once."""
        request = check_fields(read_object(req, self._max_body), ExportRequest)
        dest = self._target(request.path)
        entries, left_out = self._chosen(request.ids)
        models_dir = self._settings.models_dir
        transfer = Export(request, entries, left_out, dest, models_dir, self._hashes)
        self._exports.begin(transfer)
        answer(
            req,
            resp,
            transfer,
            self._settings.sse_ping_interval,
            stream=request.stream,
            background=request.background,
        )

    def _target(self, path: str) -> Path:
        """Return the folder that a request names.

        Raises:
            PathNotAllowed: it is not below an import root.
            InvalidParameter: there is no such folder, or it belongs to the models directory.
        """
        dest = resolved(self._roots, path, "path")
        if not os.path.isdir(dest):  # False too if its medium was pulled
            raise InvalidParameter(
                f"{path!r} is not a folder. Mount the stick there, or make the folder first.",
                "path",
            )
        own = Path(os.path.realpath(self._settings.models_dir))
        if dest.is_relative_to(own) or dest / MODELS_FOLDER == own:
            raise InvalidParameter(
                f"{path!r} is the models directory, or in it, or would make it the target. Choose "
                "another folder.",
                "path",
            )
        return dest

    def _chosen(self, ids: Sequence[str]) -> tuple[list[ModelEntry], list[Skipped]]:
        """Return the models that a request names and the caller may use, with their draft models;
        if it names none, all, and the files that cannot be used.

        Raises:
            InvalidParameter: it names a model that does not exist or is not for the caller.
        """
        settings = replace(self._settings, model="")
        found, left_out = Catalogue.of_files(settings).survey()
        allowed = [
            entry for entry in found if entry.path != STARTER_PATH and is_allowed(self._pool, entry)
        ]
        if caller().models is not None or ids:
            left_out = []
        try:
            entries = chosen(allowed, ids, beginnings=False) if ids else allowed
        except TransferError as ex:
            raise InvalidParameter(f"ids: {ex}.", "ids") from None
        if not entries:
            raise InvalidParameter("The models directory has no model to export.", "ids")
        drafts = with_drafts(entries, found, self._catalogue.entries())
        exported = [
            entry
            for entry in drafts
            if entry.path != STARTER_PATH and is_allowed(self._pool, entry)
        ]
        return exported, left_out
