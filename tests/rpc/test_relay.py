"""Bytes that are copied between two connections, of which one speaks TLS."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from pathlib import Path

import pytest
from certificates import make

from offgrid.rpc.relay import relay

MANY = 3_000_000


def tls_pair(folder: Path) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TLS connection."""
    made = make(folder, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    near, far = socket.socketpair()
    ends: list[socket.socket] = []
    thread = threading.Thread(
        target=lambda: ends.append(context.wrap_socket(near, server_side=True))
    )
    thread.start()
    other = made.trust().wrap_socket(far, server_hostname="localhost")
    thread.join()
    return ends[0], other


def receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := connection.recv(1 << 16)):
        data += part
    return bytes(data)


@pytest.mark.parametrize("secure", [True, False], ids=["TLS", "plain"])
def test_everything_arrives_in_both_directions_at_once(tmp_path: Path, secure: bool) -> None:
    client, near = socket.socketpair()
    inner, outer = tls_pair(tmp_path) if secure else socket.socketpair()
    ended: list[socket.socket] = []
    thread = threading.Thread(target=lambda: ended.append(relay(near, inner)))
    thread.start()
    there, back = (random.Random(seed).randbytes(MANY) for seed in (1, 2))
    got: dict[str, bytes] = {}
    workers = [
        threading.Thread(target=client.sendall, args=(there,)),
        threading.Thread(target=lambda: got.update(back=receive(client, MANY))),
    ]
    for worker in workers:
        worker.start()
    # One thread uses the far end: TLS does not allow two.
    got["there"] = receive(outer, MANY)
    outer.sendall(back)
    for worker in workers:
        worker.join()
    assert got == {"there": there, "back": back}
    client.sendall(b"the end")
    client.close()
    assert receive(outer, 7) == b"the end"
    thread.join()
    assert ended == [near]
    for one in (near, inner, outer):
        one.close()


@pytest.mark.parametrize("first", [True, False], ids=["near", "far"])
def test_it_returns_the_connection_that_has_ended(first: bool) -> None:
    client, near = socket.socketpair()
    inner, outer = socket.socketpair()
    (client if first else outer).sendall(b"last words")
    (client if first else outer).close()
    ended = relay(near, inner)
    assert ended is (near if first else inner)
    assert receive(outer if first else client, 10) == b"last words"
    for one in (client, near, inner, outer):
        one.close()
