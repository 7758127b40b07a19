"""``/v1/import``: lists what sticks hold, imports models from them and from peers, and tells how
far an import is."""

from __future__ import annotations

from abc import abstractmethod
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
from offgrid.errors import InvalidParameter, PeersOff
from offgrid.peers.book import Peer
from offgrid.peers.peers import Peers
from offgrid.peers.source import PeerModels
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome, choose, import_found
from offgrid.store.media import media_of
from offgrid.store.roots import Roots
from offgrid.store.search import Found, StopSearch, find
from offgrid.store.sources import Group
from offgrid.store.survey import listed

_MAX_FOLDERS = 20_000
"""Folders below the import roots that are searched for one list."""


class Import(Transfer):
    """An import while it runs, and after.

    Args:
        request: what the client wants.
        models_dir: where the models go.
        hashes: the known hashes of files.
    """

    kind = "import"
    different = "another file has this name in the models directory; replace: true replaces it"

    def __init__(self, request: ImportRequest, models_dir: Path, hashes: Hashes) -> None:
        super().__init__()
        self._request = request
        self._models_dir = models_dir
        self._hashes = hashes

    @abstractmethod
    def search(self) -> Found:
        """Return the models that the client wants.

        Raises:
            TransferError: they cannot be looked for.
        """

    def copy_models(self) -> Sequence[Outcome]:
        """Import the models."""
        return import_found(
            self.search,
            self._models_dir,
            replace=self._request.replace,
            report=self.report,
            tell=self.tell,
            plan=self.plan,
            hashes=self._hashes,
        )

    def asked(self) -> Json:
        """Return the fields of the request."""
        request = self._request
        return {
            "paths": list(request.paths),
            "peer": request.peer,
            "ids": list(request.ids),
            "replace": request.replace,
            "background": request.background,
        }

    def told(self, text: str) -> str:
        """Return a reason without the path of the models directory."""
        return plain_text(without_folder(text, self._models_dir))


class FolderImport(Import):
    """An import from files and folders.

    Args:
        request, models_dir, hashes: as :class:`Import`.
        paths: the paths of the request, resolved.
        within: the import roots, resolved.
    """

    def __init__(
        self,
        request: ImportRequest,
        models_dir: Path,
        hashes: Hashes,
        paths: Sequence[Path],
        within: Sequence[Path],
    ) -> None:
        super().__init__(request, models_dir, hashes)
        self._paths = paths
        self._within = within

    def search(self) -> Found:
        """Return the models in the files and folders."""
        found = find(self._paths, self._models_dir, within=self._within, look=self.look)
        if self._request.ids:
            choose(found, self._request.ids)
        return found


class PeerImport(Import):
    """An import from a paired machine.

    Args:
        request, models_dir, hashes: as :class:`Import`.
        peers: this machine and its peers.
        peer: the machine.
    """

    def __init__(
        self, request: ImportRequest, models_dir: Path, hashes: Hashes, peers: Peers, peer: Peer
    ) -> None:
        super().__init__(request, models_dir, hashes)
        self._models = PeerModels(peers.connections, peer, lambda: self.look(""))

    def search(self) -> Found:
        """Return the models of the request, with projectors and draft models."""
        return self._models.search(self._request.ids, self.report)

    def cancel(self) -> None:
        """Stop it soon, also while it waits for the peer."""
        super().cancel()
        self._models.cancel()


class ImportsResource:
    """``GET`` and ``POST /v1/import``."""

    scopes = IMPORT

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        imports: Transfers[Import],
        hashes: Hashes,
        peers: Peers | None = None,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._imports = imports
        self._hashes = hashes
        self._peers = peers
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
        transfer = (
            self._from_peer(request, request.peer) if request.peer else self._from_folders(request)
        )
        if self._settings.models_dir not in self._catalogue.places:
            raise InvalidParameter(
                "This server serves only the files and folders that its command line names, and "
                "not the models directory. Use offgrid import.",
            )
        self._imports.begin(transfer)
        answer(
            req,
            resp,
            transfer,
            self._settings.sse_ping_interval,
            stream=request.stream,
            background=request.background,
        )

    def _from_folders(self, request: ImportRequest) -> Import:
        """Return an import from below the import roots.

        Raises:
            InvalidParameter: the request says neither where from nor what.
            PathNotAllowed: a path is not below an import root.
        """
        if not request.paths and not request.ids:
            raise InvalidParameter(
                "Give paths (files and folders) or ids (of GET /v1/import) to import.", "paths"
            )
        within = self._roots.real()
        paths = [resolved(self._roots, path, "paths") for path in request.paths] or within
        return FolderImport(request, self._settings.models_dir, self._hashes, paths, within)

    def _from_peer(self, request: ImportRequest, name: str) -> Import:
        """Return an import from a paired machine.

        Raises:
            PeersOff: the server works alone.
            InvalidParameter: there is no such peer, the request names no models, or also paths.
        """
        if self._peers is None:
            raise PeersOff
        if request.paths:
            raise InvalidParameter("Give either peer or paths: a peer has only ids.", "paths")
        if not request.ids:
            raise InvalidParameter("Give the ids of the models to copy from the peer.", "ids")
        peer = self._peers.book.find(name)
        if peer is None:
            known = listed([one.name for one in self._peers.book.all()]) or "none"
            raise InvalidParameter(
                f"No paired machine is called {name[:80]!r}, or several are; then give the "
                f"id. The peers are: {known}. 'offgrid peers list' shows their ids.",
                "peer",
            )
        return PeerImport(request, self._settings.models_dir, self._hashes, self._peers, peer)


def _source(group: Group, present: bool) -> Json:
    return {
        "id": group.id,
        "path": plain_text(group.items[0].source.origin),
        "size": group.size,
        "parts": len(group.items),
        "present": present,
    }
