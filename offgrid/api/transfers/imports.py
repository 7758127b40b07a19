"""``/v1/import``: lists what sticks hold, imports it, and tells how far an import is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import falcon

from offgrid.api.fields.common import check_fields
from offgrid.api.http.request import liveness, read_object
from offgrid.api.http.scopes import IMPORT
from offgrid.api.shapes import Json
from offgrid.api.transfers.resources import answer, described, resolved
from offgrid.api.transfers.running import Transfer, Transfers, plain_text, without_folder
from offgrid.api.transfers.shapes import ImportRequest
from offgrid.config import Settings
from offgrid.engine.client.client import ClientGone
from offgrid.errors import InvalidParameter
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome, import_models
from offgrid.store.media import media_of
from offgrid.store.roots import Roots
from offgrid.store.search import StopSearch, find
from offgrid.store.sources import Group

_MAX_FOLDERS = 20_000
"""Folders below the import roots that are searched for one list."""


class Import(Transfer):
    """An import while it runs, and after.

    Args:
        request: what the client wants.
        paths: its paths, resolved.
        within: the import roots, resolved.
        models_dir: where the models go.
        hashes: the known hashes of files.
    """

    kind = "import"
    different = "another file has this name in the models directory; replace: true replaces it"

    def __init__(
        self,
        request: ImportRequest,
        paths: Sequence[Path],
        within: Sequence[Path],
        models_dir: Path,
        hashes: Hashes,
    ) -> None:
        super().__init__()
        self._request = request
        self._paths = paths
        self._within = within
        self._models_dir = models_dir
        self._hashes = hashes

    def copy_models(self) -> Sequence[Outcome]:
        """Import the models."""
        return import_models(
            self._paths,
            self._models_dir,
            ids=self._request.ids or None,
            within=self._within,
            replace=self._request.replace,
            report=self.report,
            tell=self.tell,
            look=self.look,
            plan=self.plan,
            hashes=self._hashes,
        )

    def asked(self) -> Json:
        """Return the fields of the request."""
        request = self._request
        return {
            "paths": list(request.paths),
            "ids": list(request.ids),
            "replace": request.replace,
            "background": request.background,
        }

    def told(self, text: str) -> str:
        """Return a reason without the path of the models directory."""
        return plain_text(without_folder(text, self._models_dir))


class ImportsResource:
    """``GET`` and ``POST /v1/import``."""

    scopes = IMPORT

    def __init__(
        self, settings: Settings, catalogue: Catalogue, imports: Transfers[Import], hashes: Hashes
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._imports = imports
        self._hashes = hashes
        self._roots = Roots(settings.import_roots)
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models below the import roots."""
        left, alive = _MAX_FOLDERS, liveness(req)

        def look(folder: str) -> None:
            nonlocal left
            left -= 1
            if not alive():
                raise ClientGone
            if left < 0:
                raise StopSearch

        roots = self._roots.real()
        # One model may be on several sticks.
        found = find(roots, self._settings.models_dir, within=roots, look=look, unique=False)
        there = {entry.id for entry in self._catalogue.entries()}
        faults = [*found.failed, *found.skipped]
        running = self._imports.running
        resp.media = {
            "object": "list",
            "data": [_source(group, group.id in there) for group in found.groups],
            "skipped": [
                {"path": plain_text(path), "reason": plain_text(reason)}
                for path, reason in faults
                if Path(path) not in roots  # an empty root is no fault
            ],
            "media": [described(medium) for medium in media_of(self._roots)],
            "roots": [plain_text(str(root)) for root in roots],
            "complete": left >= 0,
            "running": running.id if running is not None else None,
        }

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Import models: wait for the end, stream events, or answer at once."""
        request = check_fields(read_object(req, self._max_body), ImportRequest)
        if not request.paths and not request.ids:
            raise InvalidParameter(
                "Give paths (files and folders) or ids (of GET /v1/import) to import.", "paths"
            )
        models_dir = self._settings.models_dir
        if models_dir not in self._catalogue.places:
            raise InvalidParameter(
                "This server serves only the files and folders that its command line names, and "
                "not the models directory. Use offgrid import.",
            )
        within = self._roots.real()
        paths = [resolved(self._roots, path, "paths") for path in request.paths] or within
        transfer = Import(request, paths, within, models_dir, self._hashes)
        self._imports.begin(transfer)
        answer(
            req,
            resp,
            transfer,
            self._settings.sse_ping_interval,
            stream=request.stream,
            background=request.background,
        )


def _source(group: Group, present: bool) -> Json:
    return {
        "id": group.id,
        "path": plain_text(group.items[0].source.origin),
        "size": group.size,
        "parts": len(group.items),
        "present": present,
    }
