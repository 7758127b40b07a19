"""Lends this machine's memory: listens for peers, and starts a process for each session.

Nothing of ggml is reachable from a network. A machine must first finish a TLS handshake with the
certificate of a paired peer; then it speaks lines of JSON with this process; and only the relay of
a session passes bytes on to ggml's server, which listens on loopback, for one connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from offgrid.addresses import group_of
from offgrid.errors import RpcError
from offgrid.rpc.child import Child, Started
from offgrid.rpc.messages import (
    Ask,
    Device,
    Offer,
    end_connection,
    other_build,
    read_ask,
    send_line,
)
from offgrid.rpc.newcomers import Newcomers
from offgrid.rpc.session import Session, refuse

log = logging.getLogger(__name__)

MAX_SESSIONS = 16
_MAX_CONNECTIONS = 64
"""Connections of peers at once; a session has two."""
_HANDSHAKE_SECONDS = 10.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Terms:
    """What a lender needs to know of its machine.

    Attributes:
        context: returns the TLS context for the next connection: peers may be paired meanwhile.
        name_of: returns the name of the peer with a certificate of this fingerprint (SHA-256, hex);
            None if there is none any more.
        tensors: prepares a folder of tensors for a session, from which its process reads: see
            ``TensorCache.session``.
        start: starts a process for a session with this folder; raises RpcError.
        devices: returns the devices that are lent as they are now, and calls a function now and
            then meanwhile; raises RpcError.
        free: returns how many bytes of these devices can be lent.
        started: what a process has said of itself, to compare builds without starting one.
    """

    context: Callable[[], ssl.SSLContext]
    name_of: Callable[[str], str | None]
    tensors: Callable[[str, int, int, Callable[[], None]], contextlib.AbstractContextManager[str]]
    start: Callable[[str], Child]
    devices: Callable[[Callable[[], None]], tuple[Device, ...]]
    free: Callable[[Sequence[Device]], int]
    started: Started


class Lender:
    """Serves borrowers until :meth:`close`.

    Args:
        listener: a listening TCP socket.
        terms: what it needs to know.
    """

    def __init__(self, listener: socket.socket, terms: Terms) -> None:
        self._listener = listener
        self._terms = terms
        self._sessions: dict[str, Session] = {}
        self._begun = 0
        """Sessions, with those whose processes are being started, which may take a minute."""
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._newcomers = Newcomers()
        self._closed = threading.Event()

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        with self._lock:
            return len(self._sessions)

    def run(self) -> None:
        """Accept connections until :meth:`close`."""
        while not self._closed.is_set():
            try:
                plain, address = self._listener.accept()
            except OSError as ex:
                if not self._closed.is_set():
                    log.warning("cannot accept a connection: %s", ex)
                    # Without a free descriptor, the next attempt would fail at once.
                    self._closed.wait(_PAUSE)
                continue
            self._begin(plain, str(address[0]))

    def close(self) -> None:
        """Accept no more connections, and end all sessions."""
        self._closed.set()
        end_connection(self._listener)
        self._listener.close()
        with self._lock:
            sessions = [*self._sessions.values()]
        for session in sessions:
            session.close()

    # --- one connection -----------------------------------------------------------------------

    def _begin(self, plain: socket.socket, address: str) -> None:
        """Serve a connection on a new thread."""
        try:
            plain.settimeout(_HANDSHAKE_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._terms.context().wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
        except OSError as ex:
            log.debug("a connection has failed: %s", ex)
            plain.close()
            return
        self._newcomers.add(connection, group_of(address))
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="rpc-borrower", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as ex:  # the system has none left
            log.warning("cannot serve a connection: %s", ex)
            self._newcomers.remove(connection)
            connection.close()

    def _serve(self, connection: ssl.SSLSocket) -> None:
        try:
            with connection:
                connection.do_handshake()
                self._admit(connection)
        except (OSError, RpcError) as ex:
            log.debug("a connection has failed: %s", ex)
        finally:
            self._newcomers.remove(connection)

    def _admit(self, connection: ssl.SSLSocket) -> None:
        certificate = connection.getpeercert(binary_form=True)
        borrower = hashlib.sha256(certificate or b"").hexdigest()
        name = self._terms.name_of(borrower) if certificate else None
        if name is None:
            return
        self._newcomers.remove(connection)
        if not self._places.acquire(blocking=False):
            refuse(connection, f"its peers have {_MAX_CONNECTIONS} connections to it already")
            return
        try:
            self._converse(connection, name, borrower)
        finally:
            self._places.release()

    def _converse(self, connection: ssl.SSLSocket, name: str, borrower: str) -> None:
        ask = read_ask(connection, _HANDSHAKE_SECONDS)
        try:
            self._answer(connection, ask, name, borrower)
        except RpcError as ex:
            log.warning("%s gets no memory: %s", name, ex)
            refuse(connection, str(ex), self._terms.started.build)

    def _answer(self, connection: ssl.SSLSocket, ask: Ask, name: str, borrower: str) -> None:
        build = self._terms.started.build
        working = partial(send_line, connection, Offer(build, wait=True))
        if ask.ask == "status":
            devices = self._terms.devices(working)
            send_line(connection, Offer(build, self._terms.free(devices), devices))
        elif ask.ask == "lend":
            self._lend(connection, ask, name, borrower, working)
        elif ask.ask == "data":
            self._find(ask.session, borrower).serve_data(connection)
        else:
            raise RpcError("this version of OffGrid does not know the question")

    def _lend(
        self,
        connection: ssl.SSLSocket,
        ask: Ask,
        name: str,
        borrower: str,
        working: Callable[[], None],
    ) -> None:
        build = self._terms.started.build
        if ask.build != build:
            raise RpcError(f"it {other_build(build, ask.build)}")
        with self._lock:
            if self._begun >= MAX_SESSIONS:
                raise RpcError(f"it lends memory for {MAX_SESSIONS} models already")
            self._begun += 1
        try:
            with self._terms.tensors(ask.model, ask.layers, ask.after, working) as folder:
                self._run_session(connection, self._terms.start(folder), name, borrower)
        finally:
            with self._lock:
                self._begun -= 1

    def _run_session(
        self, connection: ssl.SSLSocket, child: Child, name: str, borrower: str
    ) -> None:
        session = Session(
            child, connection, name, borrower, lambda: self._terms.name_of(borrower) is not None
        )
        with self._lock:
            self._sessions[session.id] = session
        log.info("%s borrows memory for a model", name)
        try:
            session.run(self._terms.free(child.started.devices))
        finally:
            with self._lock, contextlib.suppress(KeyError):
                del self._sessions[session.id]
            session.close()

    def _find(self, id: str, borrower: str) -> Session:
        with self._lock:
            session = self._sessions.get(id)
        if session is None or session.borrower != borrower:
            raise RpcError("there is no such session")
        return session
