"""TLS connections of a borrower to a peer that lends memory."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl

from offgrid.errors import RpcError
from offgrid.pinned import ignore_clock
from offgrid.rpc.endpoint import RpcServer
from offgrid.rpc.messages import Ask, Offer, read_offer, send_line

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Time for reaching an address of a peer, and for the handshake."""


def ask(server: RpcServer, question: Ask, seconds: float) -> tuple[ssl.SSLSocket, Offer]:
    """Open a connection to a peer and ask it something.

    Args:
        server: a peer.
        question: the first line.
        seconds: time for the answer, after the connection is open, and for the next one if the
            peer says that it still prepares.

    Returns:
        The open connection, and the answer, which is yes.

    Raises:
        RpcError: the peer cannot be reached, is another one than was paired, or said no.
    """
    connection = connect(server)
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


def connect(server: RpcServer) -> ssl.SSLSocket:
    """Return a TLS connection to a peer.

    Raises:
        RpcError: it cannot be reached, or it is another one than was paired.
    """
    reasons = []
    for address in server.addresses:
        try:
            return _connect(server, address)
        except ssl.SSLError as ex:
            reason = f"the TLS handshake failed: {ex.reason or ex}"
        except OSError as ex:
            reason = "no answer" if isinstance(ex, TimeoutError) else str(ex.strerror or ex)
        # Clients see the error, and need not know the addresses of other machines.
        log.debug("%s at %s, port %d: %s", server.name, address, server.port, reason)
        reasons.append(reason)
    tried = "; ".join(dict.fromkeys(reasons)) or "no address is known"
    raise RpcError(
        f"the RPC worker {server.name} cannot be reached on port {server.port} ({tried}); check "
        "that 'offgrid rpc-worker' runs there and that the machines are paired"
    )


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


def _connect(server: RpcServer, address: str) -> ssl.SSLSocket:
    plain = socket.create_connection((address, server.port), CONNECT_SECONDS)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context_of(server).wrap_socket(plain)
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned
    context.verify_mode = ssl.CERT_REQUIRED
    ignore_clock(context)
    context.load_verify_locations(cadata=server.certificate)
    context.load_cert_chain(server.cert_file, server.key_file)
    return context
