"""What ``/v1/import`` and ``/v1/export`` share: one transfer by its id, its events and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import falcon

from offgrid.api.http.once import Once
from offgrid.api.http.request import liveness
from offgrid.api.http.scopes import IMPORT
from offgrid.api.shapes import Json
from offgrid.api.transfers.running import T, Transfer, Transfers, plain_text
from offgrid.engine.client.client import ClientGone
from offgrid.errors import InvalidParameter, NotStored, PathNotAllowed
from offgrid.store.media import Medium
from offgrid.store.roots import OutsideRoots, Roots


class TransferResource:
    """``GET`` and ``DELETE`` of one transfer.

    Args:
        transfers: the transfers of its kind.
        kind: ``import`` or ``export``.
        ping_interval: seconds without an event before a comment is sent, 0 for never.
    """

    scopes = IMPORT

    def __init__(self, transfers: Transfers[T], kind: str, ping_interval: float) -> None:
        self._transfers = transfers
        self._kind = kind
        self._ping_interval = ping_interval

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the transfer in its current state, or its events."""
        transfer = found(self._transfers, self._kind, id)
        stream = req.get_param("stream", default="false")
        if stream not in ("true", "false"):
            raise InvalidParameter("stream must be true or false.", "stream")
        if stream == "true":
            send(resp, transfer.follow(self._ping_interval, liveness(req)), lambda: None)
        else:
            resp.media = transfer.snapshot()

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Cancel the transfer if it runs, and forget it."""
        end(found(self._transfers, self._kind, id), req)
        self._transfers.forget(id)
        resp.media = {"id": id, "object": f"{self._kind}.deleted", "deleted": True}


class TransferCancelResource:
    """``POST /v1/import/{id}/cancel`` and ``POST /v1/export/{id}/cancel``."""

    scopes = IMPORT

    def __init__(self, transfers: Transfers[T], kind: str) -> None:
        self._transfers = transfers
        self._kind = kind

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Cancel the transfer and return it; one that has ended stays as it is."""
        transfer = found(self._transfers, self._kind, id)
        end(transfer, req)
        resp.media = transfer.snapshot()


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


def send(resp: falcon.Response, frames: Iterator[bytes], leave: Callable[[], None]) -> None:
    """Answer with a stream of events.

    Args:
        resp: the response.
        frames: the events.
        leave: called once when the stream has ended, or its client has left.
    """
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = _Events(frames, leave)


def answer(
    req: falcon.Request,
    resp: falcon.Response,
    transfer: Transfer,
    ping_interval: float,
    *,
    stream: bool,
    background: bool,
) -> None:
    """Answer the request that began a transfer: with events, at its end, or at once. Unless it runs
    in the background, a client that leaves cancels it."""
    alive = liveness(req)
    if stream:
        leave = transfer.cancel if not background else (lambda: None)
        send(resp, transfer.follow(ping_interval, alive), leave)
        return
    if not background:
        try:
            transfer.wait_end(alive)
        except ClientGone:
            transfer.cancel()
            raise
    resp.media = transfer.snapshot()


def end(transfer: Transfer, req: falcon.Request) -> None:
    """Cancel a transfer and wait for its end."""
    transfer.cancel()
    transfer.wait_end(liveness(req))


def found(transfers: Transfers[T], kind: str, id: str) -> T:
    """Return a transfer.

    Raises:
        NotStored: there is none with that id.
    """
    transfer = transfers.find(id)
    if transfer is None:
        raise NotStored(f"{kind.capitalize()} with id {id[:80]!r} not found.", f"{kind}_id")
    return transfer


def resolved(roots: Roots, path: str, param: str) -> Path:
    """Return a path below an import root, with symbolic links resolved.

    Raises:
        PathNotAllowed: it is not below one.
    """
    try:
        return roots.resolve(path)
    except OutsideRoots:
        named = ", ".join(plain_text(str(root)) for root in roots.given()) or "none"
        raise PathNotAllowed(path, named, param) from None


def described(medium: Medium) -> Json:
    """Return a medium as JSON."""
    return {
        "path": plain_text(str(medium.path)),
        "name": plain_text(medium.path.name or str(medium.path)),
        "size": medium.size,
        "free": medium.free,
        "file_system": medium.file_system or None,
        "largest_file": medium.largest_file,
        "writable": medium.writable,
    }
