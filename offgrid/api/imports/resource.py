"""``/v1/import``: lists what sticks hold, imports it, and tells how far an import is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import falcon

from offgrid.api.fields.common import check_fields
from offgrid.api.http.once import Once
from offgrid.api.http.request import liveness, read_object
from offgrid.api.imports.running import Imports, RunningImport, plain_text
from offgrid.api.imports.shapes import ImportRequest
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import ClientGone
from offgrid.errors import InvalidParameter, NotStored, PathNotAllowed
from offgrid.store.catalogue import Catalogue
from offgrid.store.roots import OutsideRoots, Roots
from offgrid.store.search import StopSearch, find
from offgrid.store.sources import Group

_MAX_FOLDERS = 20_000
"""Folders below the import roots that are searched for one list."""


class ImportsResource:
    """``GET`` and ``POST /v1/import``."""

    def __init__(self, settings: Settings, catalogue: Catalogue, imports: Imports) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._imports = imports
        self._roots = Roots(settings.import_roots)
        self._max_body = settings.max_body_mb << 20
        self._ping_interval = settings.sse_ping_interval

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
        found = find(roots, self._settings.models_dir, within=roots, look=look)
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
        if self._settings.models_dir not in self._catalogue.places:
            raise InvalidParameter(
                "This server serves only the files and folders that its command line names, and "
                "not the models directory. Use offgrid import.",
            )
        within = self._roots.real()
        paths = [self._resolved(path) for path in request.paths] or within
        made = self._imports.start(request, paths, within)
        alive = liveness(req)
        if request.stream:
            leave = made.cancel if not request.background else (lambda: None)
            _send(resp, made.follow(self._ping_interval, alive), leave)
            return
        if not request.background:
            try:
                made.wait_end(alive)
            except ClientGone:
                made.cancel()
                raise
        resp.media = made.snapshot()

    def _resolved(self, path: str) -> Path:
        try:
            return self._roots.resolve(path)
        except OutsideRoots:
            roots = ", ".join(plain_text(str(root)) for root in self._roots.given()) or "none"
            raise PathNotAllowed(path, roots) from None


class ImportResource:
    """One import."""

    def __init__(self, settings: Settings, imports: Imports) -> None:
        self._imports = imports
        self._ping_interval = settings.sse_ping_interval

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the import in its current state, or its events."""
        made = _find(self._imports, id)
        stream = req.get_param("stream", default="false")
        if stream not in ("true", "false"):
            raise InvalidParameter("stream must be true or false.", "stream")
        if stream == "true":
            _send(resp, made.follow(self._ping_interval, liveness(req)), lambda: None)
        else:
            resp.media = made.snapshot()

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Cancel the import if it runs, and forget it."""
        _end(_find(self._imports, id), req)
        self._imports.forget(id)
        resp.media = {"id": id, "object": "import.deleted", "deleted": True}


class ImportCancelResource:
    """``POST /v1/import/{id}/cancel``."""

    def __init__(self, imports: Imports) -> None:
        self._imports = imports

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Cancel the import and return it; one that has ended stays as it is."""
        made = _find(self._imports, id)
        _end(made, req)
        resp.media = made.snapshot()


class _Events:
    """The body of a stream; ``leave`` is called once, however the stream ends."""

    def __init__(self, frames: Iterator[bytes], leave: Callable[[], None]) -> None:
        self._frames = frames
        self._leave = Once(leave)

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left."""
        self._leave()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self._leave()


def _send(resp: falcon.Response, frames: Iterator[bytes], leave: Callable[[], None]) -> None:
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = _Events(frames, leave)


def _end(made: RunningImport, req: falcon.Request) -> None:
    made.cancel()
    made.wait_end(liveness(req))


def _find(imports: Imports, id: str) -> RunningImport:
    made = imports.find(id)
    if made is None:
        raise NotStored(f"Import with id {id[:80]!r} not found.", "import_id")
    return made


def _source(group: Group, present: bool) -> Json:
    return {
        "id": group.id,
        "path": plain_text(group.items[0].source.origin),
        "size": group.size,
        "parts": len(group.items),
        "present": present,
    }
