"""A wire between two programs of this machine, which a test can cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

ADDRESS = "127.0.0.1"


class Wire:
    """Forwards connections to a port.

    Attributes:
        port: where it listens.
        limit: bytes of a connection from its client after which the wire passes on no more of it,
            as if it were very slow; None for no limit.
        held: set when a connection has reached the limit.
        most: bytes that the connection with the most has passed on for its client.
        returned: bytes that all connections have passed on to their clients.
    """

    def __init__(self, target: int) -> None:
        self.limit: int | None = None
        self.held = threading.Event()
        self.most = self.returned = 0
        self._target = target
        self._cut = False
        self._listener = socket.create_server((ADDRESS, 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._far: dict[socket.socket, socket.socket] = {}
        self._passed: dict[socket.socket, int] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Lose all bytes from now on, without telling either end, as a pulled cable does."""
        self._cut = True

    def mend(self) -> None:
        """Forward new connections again, without a limit. Those of before stay dead."""
        self.limit, self._cut = None, False

    def close(self) -> None:
        self._closed = True
        self._wake.send(b".")
        self._thread.join()
        for one in (*self._far, self._listener, self._wake, self._woken, self._selector):
            one.close()

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._far:
                    self._forward(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection((ADDRESS, self._target))
        except OSError:
            near.close()
            return
        self._far |= {near: far, far: near}
        self._passed[near] = 0
        for one in (near, far):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        target = self._far[source]
        over = self.limit is not None and self._passed.get(source, 0) > self.limit
        if over or self._cut:
            self._selector.unregister(source)
            if over:
                self.held.set()
            return
        try:
            data = source.recv(1 << 16)
            target.sendall(data)
        except OSError:
            data = b""
        if source in self._passed:
            self._passed[source] += len(data)
            self.most = max(self.most, self._passed[source])
        else:
            self.returned += len(data)
        if not data:
            self._end(source)
            self._end(target)

    def _end(self, one: socket.socket) -> None:
        del self._far[one]
        with contextlib.suppress(KeyError):
            self._selector.unregister(one)
        one.close()


@contextlib.contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    """A wire to a port of this machine."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()
