"""A request that a peer answers: sent, and its response read as it comes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from offgrid.engine.client.client import ClientGone
from offgrid.errors import Overloaded, PeerLost
from offgrid.peers.book import Peer
from offgrid.peers.connection import PeerConnection, PeerConnections
from offgrid.peers.errors import PeerError, PeerUnreachable
from offgrid.peers.response import PeerResponse

FOR_EVER = 7 * 24 * 3600.0
"""Seconds of silence that a connection allows: the watch ends it much earlier."""

SILENT = "it does not answer any more"


@dataclass(frozen=True)
class Outgoing:
    """A request as it is sent to a peer.

    Attributes:
        method: ``POST`` or ``GET``.
        path: with its query, quoted.
        headers: what is sent besides Host and Content-Length.
        body: as it came.
        late: raises RequestTimeout if the request has taken too long.
        deadline: when that is, in seconds of ``time.monotonic``.
        alive: whether the client is still connected.
        gone: has a function called when the client leaves; returns a function that ends this.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    late: Callable[[], None] = lambda: None
    deadline: float = math.inf
    alive: Callable[[], bool] = lambda: True
    gone: Callable[[Callable[[], None]], Callable[[], None]] = lambda leave: lambda: None


class Running:
    """A request on its way. One thread uses it; any may call :meth:`leave` and :meth:`lose`.

    Args:
        peer: the machine that answers it.
        outgoing: the request.

    Attributes:
        was_kept: whether its connection had served another request before.
    """

    def __init__(self, peer: Peer, outgoing: Outgoing) -> None:
        self.peer, self.was_kept = peer, False
        self._outgoing = outgoing
        self._connection: PeerConnection | None = None
        self._response: PeerResponse | None = None
        self._why = ""
        self._closed = False
        self._lock = threading.Lock()
        self._at_end = [outgoing.gone(self.leave)]

    def at_end(self, end: Callable[[], None]) -> None:
        """Have a function called when it is closed. Not for other threads."""
        self._at_end.append(end)

    @property
    def response(self) -> PeerResponse:
        """The response; after :meth:`send`."""
        assert self._response is not None
        return self._response

    def leave(self) -> None:
        """End it because its client has left."""
        self._end("gone")

    def lose(self) -> None:
        """End it because its peer has fallen silent."""
        self._end("silent")

    def stop(self) -> None:
        """End it because this server stops."""
        self._end("stopping")

    def _end(self, why: str) -> None:
        with self._lock:  # once it is closed, the connection serves another request
            if not self._closed:
                self._why = self._why or why
                if self._connection is not None:
                    self._connection.cancel()

    def connect(self, connections: PeerConnections) -> None:
        """Get a connection to the peer.

        Raises:
            PeerError: there is none.
            ClientGone: the client has left.
            RequestTimeout: it has taken too long.
            Overloaded: this server stops.
        """
        try:
            connection = connections.open(self.peer, FOR_EVER, self._deadline, self._is_wanted)
        except PeerError:
            self._check()
            raise
        self.was_kept = connection.idle_since > 0
        with self._lock:
            self._connection = connection
        if not self._is_wanted():
            self._check()

    def _is_wanted(self) -> bool:
        return not self._why and self._outgoing.alive()

    @property
    def _deadline(self) -> float | None:
        deadline = self._outgoing.deadline
        return None if deadline == math.inf else deadline

    def send(self) -> None:
        """Send it, and wait for the head of the response; after :meth:`connect`.

        Raises:
            PeerError: no response came.
            ClientGone: the client has left.
            RequestTimeout: it has taken too long.
        """
        sent = self._outgoing
        assert self._connection is not None
        try:
            self._response = self._connection.request(
                sent.method, sent.path, sent.body, sent.headers, self._deadline
            )
        except PeerError:
            self._check()
            if self._why:
                raise PeerUnreachable(self.peer, SILENT, is_sent=True, is_silent=True) from None
            raise

    def read(self) -> bytes:
        """Return what has arrived of the body, as soon as something has; empty at its end.

        Raises:
            PeerLost: the peer has ended the connection, or is silent.
            ClientGone: the client has left.
            RequestTimeout: it has taken too long.
        """
        try:
            return self.response.read_some()
        except PeerError as ex:
            self._check()
            raise PeerLost(self.peer.name, SILENT if self._why else ex.reason) from None

    def _check(self) -> None:
        """Raise the reason why the connection ended if it is not that of the peer."""
        if self._why == "gone" or not self._outgoing.alive():
            raise ClientGone
        if self._why == "stopping":
            raise Overloaded("The server is stopping.", code="server_shutting_down")
        if time.monotonic() >= self._outgoing.deadline:
            self._outgoing.late()

    def close(self) -> None:
        """Give the connection back, or close it if the response was not read to its end.
        Idempotent."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            if self._connection is not None:
                self._connection.release()
            for end in self._at_end:
                end()
