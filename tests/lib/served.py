"""A server process that the tests of one module attack in turn, and checks of its health."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from processes import Child, models_flags, program
from support import TIMEOUT, Json, Response, eventually, request


def command(folder: Path, *flags: str) -> list[str]:
    """The command line of ``offgrid serve`` with all its files in a folder."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    return [
        program("offgrid"), "serve", "--port", "0", *models_flags(models),
        # Threads of llama.cpp wait for each other, and other tests run at the same time.
        "--threads", "1", "--responses-file", str(folder / "responses.sqlite3"), *flags,
    ]  # fmt: skip


@contextlib.contextmanager
def served(folder: Path, *flags: str) -> Iterator[Child]:
    """Run ``offgrid serve``; its default model is loaded when the block begins."""
    child = Child(*command(folder, *flags), cwd=folder)
    try:
        child.wait_ready()
        yield child
    finally:
        child.end()


@contextlib.contextmanager
def unharmed(server: Child, text: Json) -> Iterator[None]:
    """Fail if the block replaces the server or its worker, stops them answering, or logs an error.

    Args:
        server: a server with one worker.
        text: the body of a completion that must be answered before and after the block.
    """
    assert complete(server, text).status == 200
    worker = server.worker()
    yield
    assert server.process.poll() is None, server.err.text
    assert request(server.url, "GET", "/health").status == 200
    assert complete(server, text).status == 200
    eventually(lambda: server.workers() == [worker], "its worker is the same")
    assert "ERROR offgrid" not in server.err.text


def complete(server: Child, body: Json) -> Response:
    """Request a completion."""
    return request(server.url, "POST", "/v1/completions", body)


def connect(server: Child) -> socket.socket:
    """Return a new connection; the caller closes it."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port), TIMEOUT)


def descriptors(server: Child) -> int:
    """The number of open files and connections of the server."""
    return int(psutil.Process(server.process.pid).num_fds())
