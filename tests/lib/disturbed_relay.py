"""A relay of TCP connections that counts what a server sends, and disturbs it after some bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Act = Callable[[bytes], bytes]
"""Gets the bytes that come next, and returns those that are passed on; nothing cuts the
connection."""


def cut(data: bytes) -> bytes:
    """Cut the connection."""
    return b""


def flip(data: bytes) -> bytes:
    """Alter one bit."""
    return bytes([data[0] ^ 1]) + data[1:]


class Relay:
    """Passes connections on to a port of this machine.

    Attributes:
        port: its own port.
        target: the port that it passes new connections on to.
        sent: bytes that servers have sent through it.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent = 0
        self._lock = threading.Lock()
        self._after: int | None = None
        self._act: Act = cut
        self._socks: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def disturb(self, after: int, act: Act) -> None:
        """Call a function once, when this many more bytes have been sent."""
        with self._lock:
            self._after, self._act = self.sent + after, act

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            socks = [*self._socks, self._listener]
        for sock in socks:
            _end(sock)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._socks += [client, server]
            for pump in (self._up, self._down):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                for piece in self._pieces(data):
                    client.sendall(piece)
                    with self._lock:
                        self.sent += len(piece)
        _end(client)
        _end(server)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what is passed on, in pieces between which a disturbance happens."""
        with self._lock:
            left = None if self._after is None else self._after - self.sent
            if left is None or left >= len(data):
                left = None
            else:
                self._after = None
        if left is None:
            yield data
            return
        yield data[:left]
        rest = self._act(data[left:])
        if not rest:
            raise ConnectionError
        yield rest


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextlib.contextmanager
def relay(target: int) -> Iterator[Relay]:
    """Relay to a port while the block runs."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()
