"""Connections to peers: HTTP/1.1 in TLS, kept open between requests.

A connection belongs to the peer whose certificate it has. Addresses only say where to look for it.
"""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from offgrid.addresses import of_socket
from offgrid.peers.book import Book, Peer
from offgrid.peers.contexts import client_context
from offgrid.peers.errors import PeerProtocolError, PeerRefused, PeerUnreachable
from offgrid.peers.identity import Identity
from offgrid.peers.response import MAX_ANSWER, PeerResponse, explained, is_refusal, short
from offgrid.peers.timed import TimedSocket, tune

CONNECT_SECONDS = 1.5
"""How long one address may take to accept a connection: two lost packets on a slow network. No
address gets less, as long as there is time."""
HANDSHAKE_SECONDS = 5.0
"""How long a machine may take for the handshake, also while all its processors are busy."""
SEARCH_SECONDS = 10.0
"""How long a peer is looked for at all places together."""
IDLE_SECONDS = 20.0
"""How long an unused connection is kept; the server closes it after 30."""
MAX_IDLE = 8
"""Unused connections to each peer that are kept."""
_ALERT_SECONDS = 1.0
_SAID_NO = (ConnectionRefusedError, ConnectionResetError, ssl.SSLError)
"""Errors that show that a machine answers there."""
_IDEMPOTENT = ("GET", "HEAD", "DELETE")
Place = tuple[str, int]
"""An address and a port."""


class PeerConnection:
    """A connection to a peer, used by the thread that opened it; another may :meth:`cancel` it.

    As a context manager it returns to :class:`PeerConnections` when the body of the last response
    was read to its end, and is closed otherwise.

    Attributes:
        peer: the peer.
        place: the address and port where it answered.
    """

    def __init__(
        self, owner: PeerConnections, peer: Peer, sock: TimedSocket, place: Place, timeout: float
    ) -> None:
        self.peer, self.place = peer, place
        self.idle_since = 0.0
        self._owner, self._sock, self._timeout = owner, sock, timeout
        self._is_fresh = True
        self._response: PeerResponse | None = None
        self._cancelled = False
        self._http = _http_on(sock, place)

    def __enter__(self) -> PeerConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.release()
        else:
            self.close()

    def lend(self, timeout: float) -> None:
        """Prepare for the next use."""
        self._timeout, self._response, self._is_fresh = timeout, None, False

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> PeerResponse:
        """Send a request; return the response when its headers have come.

        If the peer has closed the kept connection, a new one is opened: before anything was sent,
        or for GET, HEAD and DELETE also after that.

        Args:
            method: such as ``POST``.
            path: with its query, quoted.
            body: sent with its Content-Length.
            headers: sent besides Host and Content-Length.
            deadline: when the whole answer must have come, in seconds of ``time.monotonic``.
                Without it, the timeout is the longest silence.

        Raises:
            PeerRefused: this machine is not, or no longer, a peer of that one.
            PeerUnreachable: the peer cannot be reached, has ended the connection, or is silent.
            PeerProtocolError: what it answered is not valid HTTP.
        """
        if not self._is_fresh and has_ended(self._sock):
            self._reopen(deadline)
        try:
            return self._exchange(method, path, body, headers or {}, deadline)
        except PeerUnreachable as ex:
            # One that was silent would only be silent again.
            if self._is_fresh or self._cancelled or ex.is_silent or method not in _IDEMPOTENT:
                raise
        self._reopen(deadline)
        return self._exchange(method, path, body, headers or {}, deadline)

    def cancel(self) -> None:
        """End the connection; a thread that reads from it gets PeerUnreachable. Any thread may call
        this, at any time."""
        self._cancelled = True
        # The method of SSLSocket would let the reader go on without TLS.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Only for the thread that uses it. Idempotent."""
        self.cancel()
        self._http.close()
        self._sock.close()
        self._owner.forget(self)

    def release(self) -> None:
        """Give the connection back for the next request; close it if it cannot be used again."""
        if self._cancelled or self._response is None or not self._response.reusable:
            self.close()
        else:
            self._owner.keep(self)

    def _reopen(self, deadline: float | None) -> None:
        self._http.close()
        self._sock.close()
        self._sock, self.place = self._owner.connect(
            self.peer, self._timeout, deadline, lambda: not self._cancelled
        )
        self._http, self._is_fresh = _http_on(self._sock, self.place), True
        if self._cancelled:  # by another thread, meanwhile
            self.cancel()

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float | None,
    ) -> PeerResponse:
        self._sock.allow(self._timeout, deadline)
        try:
            with explained(self.peer, is_sent=True):
                self._http.request(method, path, body, dict(headers))
                response = PeerResponse(self.peer, self._http.getresponse())
        except PeerUnreachable as ex:
            # A refusal may be lost when the connection is reset: look for it, without a request.
            if self._is_fresh and ex.is_lost and not self._cancelled:
                self._owner.check_refusal(self.peer, self.place)
            raise
        if response.status == 401:
            raise PeerRefused(self.peer)
        if not 200 <= response.status <= 599:
            # One below 200 is no end of a response: a client would wait for another head.
            raise PeerProtocolError(self.peer, f"its answer has the status {response.status}")
        self._response = response
        return response


class PeerConnections:
    """Connections to all peers. Thread-safe.

    Args:
        identity: this machine.
        book: its peers. When one is forgotten, the connections to it end.
        places: returns more places at which the peer with an id may be found.
    """

    def __init__(
        self,
        identity: Identity,
        book: Book,
        places: Callable[[str], Sequence[Place]] = lambda id: (),
    ) -> None:
        self._identity, self._book = identity, book
        self.places = places
        self._lock = threading.Lock()
        self._closed = False
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._idle: dict[str, list[PeerConnection]] = {}
        self._lent: set[PeerConnection] = set()
        self._skipped: dict[str, int] = {}
        """Certificate -> how many attempts in a row had no time for all places."""
        book.on_change(self._drop_forgotten)

    def open(
        self,
        peer: Peer,
        timeout: float,
        deadline: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> PeerConnection:
        """Return a connection to a peer: one that was kept, or a new one.

        Args:
            peer: the peer.
            timeout: seconds; the longest silence of the peer, and the longest time to connect.
            deadline: when it must be connected, in seconds of ``time.monotonic``; earlier than
                by the timeout, and than after :data:`SEARCH_SECONDS`.
            wanted: whether the connection is still needed; asked before each place is tried.

        Raises:
            PeerUnreachable: the peer answers at none of its addresses, or was forgotten; or the
                connection is no longer wanted.
        """
        kept = self._take(peer)
        if kept is not None:
            kept.lend(timeout)
            return kept
        sock, place = self.connect(peer, timeout, deadline, wanted)
        connection = PeerConnection(self, peer, sock, place, timeout)
        with self._lock:
            # From now on, the end of the server and a change of the book end it.
            self._lent.add(connection)
            reason = self._unwanted(peer)
        if reason:
            connection.close()
            raise PeerUnreachable(peer, reason)
        return connection

    def request(
        self,
        peer: Peer,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = 5.0,
        limit: int = MAX_ANSWER,
    ) -> tuple[int, bytes]:
        """Send a request with a JSON body, or none; return status and body of the answer.

        Args:
            timeout: seconds for connecting, and again for the whole answer.
            limit: the most bytes of the answer.

        Raises:
            PeerError: as :meth:`PeerConnection.request` and :meth:`PeerResponse.read_all`.
        """
        sent = None if body is None else msgspec.json.encode(body)
        headers = {} if sent is None else {"Content-Type": "application/json"}
        with self.open(peer, timeout) as connection:
            deadline = time.monotonic() + timeout
            response = connection.request(method, path, sent, headers, deadline)
            return response.status, response.read_all(limit)

    def close(self) -> None:
        """End all connections; later ones fail. Idempotent."""
        with self._lock:
            self._closed = True
            idle = [one for kept in self._idle.values() for one in kept]
            self._idle.clear()
            lent = list(self._lent)
        for connection in idle:
            connection.close()
        for connection in lent:
            connection.cancel()

    def keep(self, connection: PeerConnection) -> None:
        """Take back a connection that can be used again."""
        with self._lock:
            self._lent.discard(connection)
            kept = self._idle.setdefault(connection.peer.fingerprint, [])
            is_peer = self._book.by_fingerprint(connection.peer.fingerprint) is not None
            if is_peer and not self._closed and len(kept) < MAX_IDLE:
                connection.idle_since = time.monotonic()
                kept.append(connection)
                return
        connection.close()

    def forget(self, connection: PeerConnection) -> None:
        """Note that a connection is closed."""
        with self._lock:
            self._lent.discard(connection)

    def connect(
        self, peer: Peer, timeout: float, deadline: float | None, wanted: Callable[[], bool]
    ) -> tuple[TimedSocket, Place]:
        """Return a new connection, after the handshake, and where the peer was found.

        A place that is silent leaves time for the others. If there was no time for all of them, the
        next attempt begins one place later, so that each is tried properly before long. The
        arguments and the errors are those of :meth:`open`.
        """
        ends = time.monotonic() + min(timeout, SEARCH_SECONDS)
        if deadline is not None:
            ends = min(ends, deadline)
        reasons: list[str] = []
        is_silent = True
        places = self._where(peer)
        for number, place in enumerate(places, 1):
            left = ends - time.monotonic()
            if left <= 0:
                break
            reason = self._unwanted(peer) if wanted() else "the request has ended"
            if reason:
                raise PeerUnreachable(peer, reason)
            if number < len(places):
                left = min(left, max(left / 2, CONNECT_SECONDS))
            try:
                sock, address = self._connect_at(peer, place, left)
            except (OSError, ValueError) as ex:
                reasons.append(f"{place[0]} port {place[1]}: {short(ex)}")
                is_silent = is_silent and not isinstance(ex, _SAID_NO)
                continue
            with self._lock:
                self._skipped.pop(peer.fingerprint, None)
            self._book.found_at(peer.fingerprint, address, place[1])
            return sock, place
        if time.monotonic() >= ends:
            with self._lock:
                self._skipped[peer.fingerprint] = self._skipped.get(peer.fingerprint, 0) + 1
        reason = "; ".join(reasons) or ("no time is left" if places else "no address is known")
        raise PeerUnreachable(peer, reason, is_silent=is_silent)

    def check_refusal(self, peer: Peer, place: Place) -> None:
        """Connect again without sending a request, and wait whether the peer refuses this machine.

        Raises:
            PeerRefused: it does.
        """
        with contextlib.suppress(OSError, ValueError):
            sock, _ = self._connect_at(peer, place, HANDSHAKE_SECONDS)
            with sock:
                sock.settimeout(_ALERT_SECONDS)
                try:
                    sock.recv(1)
                except ssl.SSLError as ex:
                    if is_refusal(ex):
                        raise PeerRefused(peer) from None

    def _where(self, peer: Peer) -> list[Place]:
        """Return where to look for a peer: where it was last; where the network says that it is;
        and where it was before. After attempts that had no time for all, another one comes first.
        """
        latest = self._book.by_fingerprint(peer.fingerprint) or peer
        known = [(address, latest.port) for address in latest.addresses]
        places = list(dict.fromkeys([*known[:1], *self.places(peer.id), *known[1:]]))
        with self._lock:
            first = self._skipped.get(peer.fingerprint, 0) % max(1, len(places))
        return places[first:] + places[:first]

    def _connect_at(self, peer: Peer, place: Place, seconds: float) -> tuple[TimedSocket, str]:
        """Return a connection after the handshake, and the address, which is a name in no case.

        Raises:
            OSError: there is none after some seconds.
        """
        ends = time.monotonic() + seconds
        plain = socket.create_connection(place, min(CONNECT_SECONDS, seconds))
        try:
            tune(plain)
            address = of_socket(plain.getpeername())
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            plain.settimeout(min(HANDSHAKE_SECONDS, left))
            sock = self._context(peer).wrap_socket(plain, suppress_ragged_eofs=False)
        except BaseException:
            plain.close()
            raise
        assert isinstance(sock, TimedSocket)
        if sock.fingerprint != peer.fingerprint:
            sock.close()
            raise ConnectionError("another machine answers there")
        return sock, address

    def _context(self, peer: Peer) -> ssl.SSLContext:
        found = self._contexts.get(peer.fingerprint)
        if found is None:
            found = client_context(self._identity, peer)
            found.sslsocket_class = TimedSocket
            self._contexts[peer.fingerprint] = found
        return found

    def _unwanted(self, peer: Peer) -> str:
        """Return why no connection to a peer is to be made now; empty if one is."""
        if self._closed:
            return "this server is stopping"
        if self._book.by_fingerprint(peer.fingerprint) is None:
            return "this machine has forgotten it"
        return ""

    def _take(self, peer: Peer) -> PeerConnection | None:
        """Return the connection that was used last, and close those that are too old."""
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            kept = self._idle.get(peer.fingerprint, [])
            old = [one for one in kept if one.idle_since < oldest]
            kept[:] = [one for one in kept if one.idle_since >= oldest]
            taken = kept.pop() if kept else None
            if taken is not None:
                self._lent.add(taken)
        for connection in old:
            connection.close()
        return taken

    def _drop_forgotten(self) -> None:
        with self._lock:
            # Read with the lock: another thread may follow a later change of the book meanwhile.
            known = {peer.fingerprint for peer in self._book.all()}
            gone = [key for key in self._idle if key not in known]
            idle = [one for key in gone for one in self._idle.pop(key)]
            lent = [one for one in self._lent if one.peer.fingerprint not in known]
            self._skipped = {key: one for key, one in self._skipped.items() if key in known}
        for key in gone:
            self._contexts.pop(key, None)
        for connection in idle:
            connection.close()
        for connection in lent:
            connection.cancel()


def has_ended(sock: socket.socket) -> bool:
    """Return whether the peer has closed an unused connection, or sent what was not asked for."""
    # Unlike the default one, it needs no file.
    kind = getattr(selectors, "PollSelector", selectors.DefaultSelector)
    with kind() as selector:
        try:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))
        except (OSError, ValueError):
            return True


def _http_on(sock: socket.socket, place: Place) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(*place)
    connection.sock = sock
    # It would connect without TLS.
    connection.auto_open = 0
    return connection
