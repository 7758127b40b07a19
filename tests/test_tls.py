"""Connections that are reset before their handshake: no socket of them stays open."""

from __future__ import annotations

import gc
import socket
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import make
from rpc_workers import peer_of

from offgrid.api.http.waitress.tls import Certificate
from offgrid.peers.book import Book
from offgrid.peers.contexts import ServerContexts, client_context, pairing_context
from offgrid.peers.identity import load_identity
from offgrid.peers.timed import TimedSocket
from offgrid.rpc.connection import context_of
from offgrid.rpc.endpoint import RpcServer
from offgrid.tls import secure_context


def reset() -> socket.socket:
    """A connection that its other end has reset, as a server does that ends before it accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname())


def leaks(context: ssl.SSLContext, **options: bool) -> bool:
    """Whether a connection that was reset leaves an open socket."""
    plain = reset()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(plain, **options)
        gc.collect()
    plain.close()
    return any(issubclass(one.category, ResourceWarning) for one in told)


def timed() -> ssl.SSLContext:
    context = pairing_context()
    context.sslsocket_class = TimedSocket
    return context


def lending(folder: Path) -> ssl.SSLContext:
    own = load_identity(folder)
    files = (str(own.certificate_file), str(own.key_file))
    return context_of(RpcServer("far", ("127.0.0.1",), 1, own.certificate, *files))


def of_peer(folder: Path) -> ssl.SSLContext:
    own = load_identity(folder)
    return client_context(own, peer_of(own))


@pytest.mark.parametrize(
    "make_context",
    [lambda folder: pairing_context(), lambda folder: timed(), lending, of_peer],
    ids=["pairing", "timed", "lending", "peer"],
)
def test_a_client(tmp_path: Path, make_context: Callable[[Path], ssl.SSLContext]) -> None:
    assert not leaks(make_context(tmp_path))


def test_a_server(tmp_path: Path) -> None:
    made = make(tmp_path / "files", "localhost")
    identity = load_identity(tmp_path / "peers")
    contexts = ServerContexts(identity, Book(tmp_path / "peers"))
    for context in (Certificate(made.cert, made.key).context, contexts.context):
        assert not leaks(context, server_side=True, do_handshake_on_connect=False)


def test_a_connection_that_is_not_reset_is_one_of_ssl(tmp_path: Path) -> None:
    made = make(tmp_path, "localhost")
    context = secure_context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        with context.wrap_socket(
            listener.accept()[0], server_side=True, do_handshake_on_connect=False
        ) as ours:
            assert ours.getpeername() == plain.getsockname()
            plain.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.getpeername()
