"""Clients that hold connections and send almost nothing: other clients are served meanwhile.

Other clients send requests and get responses while the connections of an attack are open.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Child
from served import command, complete, connect, descriptors, served, unharmed
from support import STARTER, Stream, endless, eventually, request

pytestmark = pytest.mark.usefixtures("access")
CONNECTIONS = 20
TEXT = {"model": STARTER, "prompt": "Once", "max_tokens": 2}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    with served(tmp_path_factory.mktemp("held")) as child:
        yield child


def send_the_head_byte_by_byte(sock: socket.socket, turn: int) -> None:
    sock.sendall(HEAD[turn : turn + 1])


def send_the_body_byte_by_byte(sock: socket.socket, turn: int) -> None:
    sock.sendall(HEAD if turn == 0 else b" ")


def say_that_nothing_follows(sock: socket.socket, turn: int) -> None:
    if turn == 0:
        sock.sendall(HEAD)
        sock.shutdown(socket.SHUT_WR)


def say_nothing(sock: socket.socket, turn: int) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        send_the_head_byte_by_byte,
        send_the_body_byte_by_byte,
        say_that_nothing_follows,
        say_nothing,
    ],
)
def test_connections_that_send_little(
    server: Child, act: Callable[[socket.socket, int], None]
) -> None:
    """Others get responses between any two of their bytes; at the end everything is freed."""
    with unharmed(server, TEXT):
        before = descriptors(server)
        with contextlib.ExitStack() as slow:
            sockets = [slow.enter_context(connect(server)) for _ in range(CONNECTIONS)]
            with Stream(server.url, "/v1/completions", endless(max_tokens=100)) as stream:
                for turn in range(4):
                    for sock in sockets:
                        # The server ends it after ten seconds.
                        with contextlib.suppress(OSError):
                            act(sock, turn)
                    assert request(server.url, "GET", "/health").status == 200
                    assert complete(server, TEXT).status == 200
                    assert stream.read_some()
                *_, done = stream.events()
                assert done == "[DONE]"
        eventually(lambda: descriptors(server) <= before, "all connections are given back")


@pytest.mark.slow
def test_sixty_connections_where_a_process_may_open_256_files(tmp_path: Path) -> None:
    words = shlex.join(command(tmp_path))
    child = Child("sh", "-c", f"ulimit -n 256; exec {words}", cwd=tmp_path)
    try:
        child.wait_ready()
        with unharmed(child, TEXT), contextlib.ExitStack() as idle:
            for _ in range(60):
                idle.enter_context(connect(child)).sendall(HEAD[:20])
            assert request(child.url, "GET", "/health").status == 200
            assert complete(child, TEXT).status == 200
    finally:
        child.end()
