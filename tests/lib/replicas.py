"""Servers behind HAProxy, with the configuration that ``offgrid cluster haproxy`` writes."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import front_proxies
import pytest
from front_proxies import free_port
from hosts import Host
from processes import Child
from support import TIMEOUT, Response, eventually, request

MACHINE = "x-offgrid-machine"
"""Header that tells which machine has answered."""


def haproxy() -> str:
    """The path of HAProxy. Skips the test if it is not installed."""
    program = front_proxies.program("haproxy")
    if program is None:
        pytest.skip("haproxy is not installed")
    return program


@dataclass
class Balanced:
    """A running HAProxy.

    Attributes:
        url: where clients connect.
        machines: the servers by the names that HAProxy has for them.
        process: HAProxy.
    """

    url: str
    machines: dict[str, Child]
    process: Child

    def post(self, path: str, body: Any) -> Response:
        """Send a request."""
        return request(self.url, "POST", path, body)

    def chat(self, messages: list[dict[str, Any]], **fields: Any) -> Response:
        """Ask for an answer."""
        body = {"messages": messages, "max_tokens": 4, "temperature": 0, **fields}
        return self.post("/v1/chat/completions", body)

    @contextlib.contextmanager
    def open(self, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        """Send a request whose answer is read piece by piece. Leaving the block hangs up."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        try:
            connection.request("POST", path, json.dumps(body).encode())
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


@contextlib.contextmanager
def balanced(host: Host, servers: Sequence[Child], *flags: str) -> Iterator[Balanced]:
    """Run HAProxy in a host, in front of servers that are ready."""
    addresses = [urlsplit(server.url).netloc for server in servers]
    program, file, port = haproxy(), host.folder / "haproxy.cfg", free_port()
    bind = f"{host.address}:{port}"
    written = host.offgrid(
        "cluster", "haproxy", *addresses, "--bind", bind, "--output", str(file), "--check", *flags
    )
    assert written.returncode == 0, written.stderr
    with running(host, program, file, (host.address, port)) as process:
        yield Balanced(f"http://{bind}", dict(zip(addresses, servers, strict=True)), process)


@contextlib.contextmanager
def running(host: Host, program: str, file: Path, address: tuple[str, int]) -> Iterator[Child]:
    """Run HAProxy with a configuration; it listens when the block begins."""
    process = host.start(program, "-db", "-f", str(file))

    def listens() -> bool:
        assert process.process.poll() is None, process.err.text
        with socket.socket() as asking:
            return asking.connect_ex(address) == 0

    try:
        eventually(listens, "HAProxy listens")
        yield process
    finally:
        process.end()
