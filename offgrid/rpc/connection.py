"""TLS connections of a borrower to a peer that lends memory."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Generator

import msgspec

from offgrid.errors import RpcError
from offgrid.pinned import ignore_clock
from offgrid.rpc.endpoint import RpcServer
from offgrid.rpc.messages import Ask, Offer, read_offer, send_line
from offgrid.tls import secure_context

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Time for reaching a peer at one of its addresses, and for the handshake there."""
_HEAD_START = 0.25
"""Seconds after which the next address is tried too: one at which no machine is says nothing."""


def ask(server: RpcServer, question: Ask, seconds: float) -> tuple[ssl.SSLSocket, Offer]:
    """Open a connection to a peer and ask it something.

    Args:
        server: a peer.
        question: the first line.
        seconds: time for the connection, if that is less than usual; for the answer after that; and
            for the next one if the peer says that it still prepares.

    Returns:
        The open connection, and the answer, which is yes.

    Raises:
        RpcError: the peer cannot be reached, is another one than was paired, or said no.
    """
    connection = connect(server, min(seconds, CONNECT_SECONDS))
    try:
        offer = _answer(connection, question, seconds)
        if offer.error:
            raise RpcError(offer.error)
    except RpcError as ex:
        connection.close()
        raise RpcError(f"the RPC worker {server.name} cannot be used: {ex}") from None
    except BaseException:
        connection.close()
        raise
    return connection, offer


def status(server: RpcServer, seconds: float) -> Offer:
    """Return what a peer says of the memory that it lends; errors as :func:`ask`."""
    connection, offer = ask(server, Ask("status"), seconds)
    connection.close()
    return offer


def connect(server: RpcServer, seconds: float = CONNECT_SECONDS) -> ssl.SSLSocket:
    """Return a TLS connection to a peer.

    Args:
        server: the peer.
        seconds: time for all its addresses and handshakes together.

    Raises:
        RpcError: it cannot be reached, or it is another one than was paired.
    """
    deadline = time.monotonic() + seconds
    reasons: list[str] = []

    def failed(address: str, ex: OSError) -> None:
        if isinstance(ex, ssl.SSLError):
            reason = f"the TLS handshake failed: {ex.reason or ex}"
        else:
            reason = "no answer" if isinstance(ex, TimeoutError) else str(ex.strerror or ex)
        # Clients see the error, and need not know the addresses of other machines.
        log.debug("%s at %s, port %d: %s", server.name, address, server.port, reason)
        reasons.append(reason)

    with contextlib.closing(_reached(server, deadline, failed)) as found:
        for plain, address, is_last in found:
            left = max(0.001, deadline - time.monotonic())
            try:
                # A machine that says nothing must leave time for the other addresses.
                return _secured(server, plain, left if is_last else left / 2)
            except OSError as ex:
                failed(address, ex)
    tried = "; ".join(dict.fromkeys(reasons)) or "no address is known"
    raise RpcError(
        f"the RPC worker {server.name} cannot be reached on port {server.port} ({tried}); check "
        "that 'offgrid rpc-worker' runs there and that the machines are paired"
    )


def reached_at(server: RpcServer, connection: socket.socket) -> RpcServer:
    """Return a peer with the only address to which a connection has led."""
    try:
        address = str(connection.getpeername()[0])
    except OSError:  # it has ended already
        return server
    return msgspec.structs.replace(server, addresses=(address,))


Failed = Callable[[str, OSError], None]


def _reached(
    server: RpcServer, deadline: float, failed: Failed
) -> Generator[tuple[socket.socket, str, bool], None, None]:
    """Yield connections to the addresses of a server, in the order in which they are made, and
    whether no other address is left. The caller closes them; the others are closed at the end.

    Args:
        server: a peer.
        deadline: monotonic seconds.
        failed: told each address at which nothing is reached, with the error.
    """
    waiting = [*server.addresses]
    begun: dict[socket.socket, str] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while (waiting or begun) and (left := deadline - time.monotonic()) > 0:
                if waiting:
                    address = waiting.pop(0)
                    for plain in _begin(address, server.port, failed):
                        selector.register(plain, selectors.EVENT_WRITE)
                        begun[plain] = address
                if not begun:
                    continue
                for plain in _ready(selector, min(_HEAD_START, left) if waiting else left):
                    address = begun.pop(plain)
                    error = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if error:
                        plain.close()
                        failed(address, OSError(error, os.strerror(error)))
                    else:
                        yield plain, address, not (waiting or begun)
            for address in (*begun.values(), *waiting):
                failed(address, TimeoutError())
        finally:
            for plain in begun:
                plain.close()


def _begin(address: str, port: int, failed: Failed) -> list[socket.socket]:
    """Begin to connect to an address, or to all addresses of a name."""
    begun = []
    try:
        places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, place in places:
            plain = socket.socket(family, kind, protocol)
            plain.setblocking(False)
            error = plain.connect_ex(place)
            if error in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                begun.append(plain)
            else:
                plain.close()
                failed(address, OSError(error, os.strerror(error)))
    except OSError as ex:
        failed(address, ex)
    return begun


def _ready(selector: selectors.BaseSelector, seconds: float) -> list[socket.socket]:
    """Return the sockets that are connected or have failed, and watch them no more."""
    ready = [key.fileobj for key, _ in selector.select(seconds)]
    for one in ready:
        selector.unregister(one)
    return [one for one in ready if isinstance(one, socket.socket)]


def _answer(connection: ssl.SSLSocket, question: Ask, seconds: float) -> Offer:
    try:
        send_line(connection, question)
        while (offer := read_offer(connection, seconds)).wait:
            pass
        return offer
    except TimeoutError:
        raise RpcError(f"it has not answered within {seconds:g} s") from None
    except OSError as ex:
        # With TLS 1.3, a client learns only here that its certificate was refused.
        if isinstance(ex, ssl.SSLError) and "ALERT" in (ex.reason or ""):
            raise RpcError("it does not know this machine; pair the machines again") from None
        raise RpcError(
            f"the connection failed ({ex.strerror or ex}); if it has forgotten this machine, pair "
            "the machines again"
        ) from None


def _secured(server: RpcServer, plain: socket.socket, seconds: float) -> ssl.SSLSocket:
    """Return the connection after the handshake; close it if that fails or takes longer.

    Raises:
        OSError: it fails, or another machine than the peer answers.
    """
    try:
        plain.settimeout(seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context_of(server).wrap_socket(plain)
        connection.settimeout(CONNECT_SECONDS)
    except BaseException:
        plain.close()
        raise
    shown = connection.getpeercert(binary_form=True)
    if shown != ssl.PEM_cert_to_DER_cert(server.certificate):
        with contextlib.suppress(OSError):
            connection.close()
        raise ssl.SSLError(0, "the machine has another certificate than the peer")
    return connection


def context_of(server: RpcServer) -> ssl.SSLContext:
    """Return what a connection to a peer needs: TLS 1.3, this machine's certificate, and trust in
    the peer's certificate only.

    Raises:
        OSError: the files of this machine's certificate cannot be used.
    """
    context = secure_context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned
    context.verify_mode = ssl.CERT_REQUIRED
    ignore_clock(context)
    context.load_verify_locations(cadata=server.certificate)
    context.load_cert_chain(server.cert_file, server.key_file)
    return context
