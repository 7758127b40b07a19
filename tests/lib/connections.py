"""A connection of the HTTP server without a server."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from waitress.adjustments import Adjustments

from offgrid.api.http.waitress.channel import Channel


class Connection:
    """Both ends of a connection, and how often waitress's loop was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.client, end = socket.socketpair()
        # The loop's own calls are made by the tests.
        server: Any = SimpleNamespace(active_channels={}, pull_trigger=self._wake)
        self.channel = Channel(server, end, ("127.0.0.1", 1), Adjustments(), map={})
        self.client.setblocking(False)

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> bytes:
        """Read everything; the loop writes what was kept whenever there is room."""
        data = b""
        while True:
            try:
                data += self.client.recv(1 << 20)
            except BlockingIOError:
                if not self.channel.total_outbufs_len:
                    return data
                self.channel.handle_write()

    def close(self) -> None:
        self.client.close()
        self.channel.handle_close()
