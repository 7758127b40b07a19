"""300 slow connections to a server that may open 256 files: all other clients are served.

The clients are told apart by their addresses. With keys it would be by their keys, and slow clients
without one hold nothing but connections.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from processes import Child
from served import command, complete, descriptors, unharmed
from support import STARTER, chat_body, endless, eventually, request

resource = pytest.importorskip("resource")
CONNECTIONS = 300
FILES = 256
TEXT = {"model": STARTER, "prompt": "Once", "max_tokens": 2}
# Logprobs make every chunk large, so that a short answer fills the buffers of its connection.
_STREAM = json.dumps(endless(max_tokens=200, logprobs=20)).encode()
_LENGTH = len(_STREAM)
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % _LENGTH
STREAM = HEAD + _STREAM
BEGINNINGS = (HEAD[:30], HEAD + _STREAM[:10], STREAM)
"""Half a head, half a body, and a request whose answer is never read."""


@pytest.fixture
def more_files() -> Iterator[None]:
    """Let this process open as many connections as it needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this system allows {hard} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def limited(folder: Path, *flags: str) -> Iterator[Child]:
    """``offgrid serve`` that may open few files."""
    words = shlex.join(command(folder, *flags))
    child = Child("sh", "-c", f"ulimit -n {FILES}; exec {words}", cwd=folder)
    try:
        child.wait_ready()
        yield child
    finally:
        child.end()


def open_from(server: Child, address: str) -> socket.socket:
    """A connection from one of this machine's loopback addresses."""
    port = urlsplit(server.url).port
    return socket.create_connection(("127.0.0.1", port), 120, (address, 0))


def drip(sockets: list[socket.socket]) -> None:
    """Send one more byte on each connection that the server has not closed."""
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.send(b" ", socket.MSG_DONTWAIT)


def hold(server: Child, address: str, opened: contextlib.ExitStack) -> list[socket.socket]:
    sockets = []
    for number in range(CONNECTIONS):
        sock = opened.enter_context(open_from(server, address))
        # The server may have closed it already, to make room for another one.
        with contextlib.suppress(OSError):
            sock.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        sockets.append(sock)
    return sockets


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.2", "127.0.0.1"])
def test_others_are_served(tmp_path: Path, more_files: None, address: str) -> None:
    """E6, E8, E9: half heads, half bodies and clients that do not read. From another address, whose
    requests at once are limited, they take nothing away; from the same address a place in the queue
    becomes free after a while."""
    other = address != "127.0.0.1"
    flags = ("--concurrent-requests", "4", "--parallel", "8") if other else ()
    with limited(tmp_path, *flags) as server, unharmed(server, TEXT):
        before = descriptors(server)
        with contextlib.ExitStack() as opened:
            sockets = hold(server, address, opened)
            for _ in range(3):
                drip(sockets)
                assert request(server.url, "GET", "/health").status == 200
                assert descriptors(server) < FILES
                if other:
                    assert chat(server) == 200
                else:
                    eventually(lambda: chat(server) == 200, "a chat is answered")
        eventually(lambda: complete(server, TEXT).status == 200, "all places are free")
        eventually(lambda: descriptors(server) <= before, "all files are closed")
    assert len(server.err.text) < 20_000
    assert "Traceback" not in server.err.text


def chat(server: Child) -> int:
    return request(server.url, "POST", "/v1/chat/completions", chat_body(max_tokens=2)).status


@pytest.mark.slow
def test_a_loop_of_refused_requests(tmp_path: Path) -> None:
    """Attack 23: a client that repeats refused requests at once. They are cheap: each is refused
    before its body is parsed, and others are answered between them."""
    with limited(tmp_path, "--requests-per-minute", "2") as server:
        port = urlsplit(server.url).port
        eager = http.client.HTTPConnection("127.0.0.1", port, source_address=("127.0.0.2", 0))
        statuses = []
        for _ in range(300):
            eager.request("POST", "/v1/completions", json.dumps(TEXT))
            response = eager.getresponse()
            response.read()
            statuses.append(response.status)
            if response.status == 429:
                assert 1 <= int(response.headers["retry-after"]) <= 30
        assert statuses.count(200) < 10
        assert set(statuses) == {200, 429}
        assert complete(server, TEXT).status == 200
        eager.close()
        assert psutil.Process(server.process.pid).num_threads() < 200
        assert len(server.err.text) < 100_000
