"""A paired machine with a valid certificate that answers whatever a test says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import TIMEOUT

from offgrid.peers.book import Book, Peer
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.identity import load_identity

Answer = Callable[[str, dict[str, str]], bytes]
"""Gets the path and the headers of a request about models; returns all bytes of the answer."""


def response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """The bytes of a response. Headers replace the usual Content-Length."""
    given = {"Content_Length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def model(*files: dict[str, Any], id: str = "a") -> dict[str, Any]:
    """A model of a list."""
    return {"id": id, "files": list(files)}


def listing(*models: dict[str, Any]) -> bytes:
    """The answer to ``GET /peer/models``."""
    return response(json.dumps({"data": models}).encode())


class LyingPeer:
    """The machine."""

    def __init__(self, folder: Path, friend: Peer, answer: Answer) -> None:
        self._answer = answer
        folder.mkdir()
        book = Book(folder)
        self._identity = load_identity(folder, "far")
        book.add(friend)
        self._contexts = ServerContexts(self._identity, book)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def as_peer(self) -> Peer:
        """This machine, as others write it into their books."""
        port = self._listener.getsockname()[1]
        return Peer(
            name="far", certificate=self._identity.certificate, addresses=("127.0.0.1",),
            port=port, paired_at=0,
        )  # fmt: skip

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(plain,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            plain.settimeout(TIMEOUT)
            with self._contexts.context.wrap_socket(plain, server_side=True) as sock:
                file = sock.makefile("rb")
                while line := file.readline():
                    path = line.split()[1].decode()
                    pairs = (text.decode().partition(": ") for text in iter(file.readline, b"\r\n"))
                    headers = {name.lower(): value.strip() for name, _, value in pairs}
                    if not path.startswith("/peer/models"):  # what machines ask all the time
                        sock.sendall(response(b"", "404 Not Found"))
                        continue
                    sock.sendall(self._answer(path, headers))


@contextlib.contextmanager
def lying_peer(folder: Path, friend: Peer, answer: Answer) -> Iterator[LyingPeer]:
    """Run such a machine while the block runs."""
    made = LyingPeer(folder, friend, answer)
    try:
        yield made
    finally:
        made.close()
