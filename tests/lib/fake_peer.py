"""A peer that answers what a test says, byte for byte, through real TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from offgrid.peers.book import Book, Peer
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.identity import load_identity
from offgrid.peers.status import StatusReport

Answer = Callable[["ssl.SSLSocket", bytes], None]
"""Writes the answer to a request, given its head and body."""


class FakePeer:
    """Listens as a peer does.

    Args:
        folder: for its identity.
        near: the machine that may connect.
        report: what it says about itself.
        answer: called for each other request, but that whether it is alive.

    Attributes:
        requests: heads and bodies of the requests so far.
    """

    def __init__(
        self, folder: Path, near: Peer, report: StatusReport, answer: Answer, name: str = "fake"
    ) -> None:
        self._identity = load_identity(folder, name)
        book = Book(folder)
        book.add(near)
        self._contexts = ServerContexts(self._identity, book)
        self._answer = answer
        self._report = whole(200, msgspec.json.encode(report))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._sockets: list[ssl.SSLSocket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def as_peer(self) -> Peer:
        """It, as others write it into their books."""
        return Peer(
            name=self._identity.name, certificate=self._identity.certificate,
            addresses=("127.0.0.1",), port=self._port,
            paired_at=int(time.time()),
        )  # fmt: skip

    def close(self) -> None:
        """End all connections, and listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in [*self._sockets]:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, ValueError),
            self._contexts.context.wrap_socket(plain, server_side=True) as sock,
        ):
            self._sockets.append(sock)
            while request := self._read(sock):
                if request.startswith(b"GET /peer/alive "):
                    sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                    continue
                if request.startswith((b"GET /peer/status ", b"GET /peer/status?")):
                    self._report(sock, request)
                    continue
                self.requests.append(request)
                self._answer(sock, request)

    @staticmethod
    def _read(sock: ssl.SSLSocket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        size = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                     if line.lower().startswith(b"content-length:")), 0)  # fmt: skip
        while len(body) < size:
            body += sock.recv(65536)
        return head + b"\r\n\r\n" + body


def whole(status: int, body: bytes, *headers: str) -> Answer:
    """An answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers]
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return lambda sock, request: sock.sendall(raw)


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; the last one if it is empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
