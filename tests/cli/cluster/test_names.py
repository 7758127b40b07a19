"""Machines that are given by name: HAProxy starts without those whose address is not known, and
with ``--dns`` follows what DNS says of them."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from front_proxies import free_port
from processes import run_offgrid
from replicas import haproxy
from support import TIMEOUT, Response, eventually, request

UNKNOWN = f"{'x' * 64}.test"
"""No name server is asked for it: a label has at most 63 characters."""
SHIP = "ship.test"
MACHINE = "x-offgrid-machine"


class Answers(BaseHTTPRequestHandler):
    """Answers with the address to which the client has connected."""

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Names(socketserver.ThreadingUDPServer):
    """A name server.

    Attributes:
        known: addresses by names.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Question)
        self.known: dict[str, str] = {}


class Question(socketserver.BaseRequestHandler):
    """A question, as RFC 1035 describes it."""

    server: Names

    def handle(self) -> None:
        asked, sock = self.request
        labels, at = [], 12
        while length := asked[at]:
            labels.append(asked[at + 1 : at + 1 + length].decode())
            at += 1 + length
        (kind,) = struct.unpack_from(">H", asked, at + 1)
        address, answer = self.server.known.get(".".join(labels)), b""
        if address is not None and kind == 1:
            answer = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(address)
        flags = 0x8180 if address is not None else 0x8183
        header = asked[:2] + struct.pack(">5H", flags, 1, bool(answer), 0, 0)
        sock.sendto(header + asked[12 : at + 5] + answer, self.client_address)


@contextlib.contextmanager
def served(server: socketserver.BaseServer) -> Iterator[int]:
    """Let a server answer in a thread; gives its port."""
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    """The port of machines on all addresses of this one."""
    with served(ThreadingHTTPServer(("0.0.0.0", 0), Answers)) as port:
        yield port


@contextlib.contextmanager
def balanced(text: str, bind: str, folder: Path) -> Iterator[str]:
    """Run HAProxy; gives its URL."""
    file = folder / "haproxy.cfg"
    file.write_text(text)
    process = subprocess.Popen([haproxy(), "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://{bind}"
    finally:
        process.kill()
        process.wait(TIMEOUT)


def asked(url: str) -> Response | None:
    """The answer to a request; None if HAProxy does not listen yet."""
    try:
        return request(url, "GET", "/v1/models")
    except ConnectionError:
        return None


def answers_from(url: str, address: str) -> bool:
    answer = asked(url)
    return answer is not None and (answer.status, answer.body) == (200, address.encode())


def test_a_machine_whose_name_is_not_known_is_left_out(port: int, tmp_path: Path) -> None:
    """The check says so once, and the next machine answers instead of it."""
    haproxy()
    bind = f"127.0.0.1:{free_port()}"
    machine = f"127.0.0.1:{port}"
    written = run_offgrid("cluster", "haproxy", UNKNOWN, machine, "--bind", bind, "--check")
    assert written.returncode == 0, written.stderr
    assert written.stderr.count(f"the name {UNKNOWN} is not known on this machine") == 1
    assert "resolvers" not in written.stdout
    with balanced(written.stdout, bind, tmp_path) as url:
        eventually(lambda: answers_from(url, "127.0.0.1"), "a machine answers")
        answer = asked(url)
        assert answer is not None
        assert answer.headers[MACHINE] == machine


@pytest.mark.slow
def test_the_address_of_a_name_is_followed(port: int, tmp_path: Path) -> None:
    """DNS does not know it first, then knows it, and then has another address."""
    haproxy()
    bind = f"127.0.0.1:{free_port()}"
    written = run_offgrid("cluster", "haproxy", f"{SHIP}:{port}", "--bind", bind, "--dns")
    assert written.returncode == 0, written.stderr
    with served(names := Names()) as dns:
        # Only the test's own name server is asked, and its answers are not kept for ten seconds.
        own = f"nameserver test 127.0.0.1:{dns}\n    hold valid 50ms"
        text = written.stdout.replace("parse-resolv-conf", own)
        assert own in text
        text = text.replace("init-addr libc,none", "init-addr none")
        with balanced(text, bind, tmp_path) as url:
            eventually(lambda: asked(url) is not None, "HAProxy listens")
            none = asked(url)
            assert none is not None
            assert none.status == 503
            for address in ("127.0.0.1", "127.0.0.2"):
                names.known[SHIP] = address
                eventually(partial(answers_from, url, address), f"its address is {address}")
