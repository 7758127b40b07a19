"""A relay of TCP connections that delays what passes.

    python delays.py ADDRESS TARGET MILLISECONDS

It listens on a free port of ADDRESS, prints the port, and passes connections on to TARGET
(``10.0.0.1:11611``). Each byte, and each end of a direction, arrives MILLISECONDS later than it
was sent; many bytes may be under way. What it cannot delay is the handshake of TCP: a client is
connected at once, so a connection costs one round trip less than over a long cable.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import sys
import threading
import time

_ABORT = struct.pack("ii", 1, 0)


class Direction:
    """One direction of a connection.

    Args:
        source: where bytes come from.
        sink: where they go.
        seconds: how much later.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, seconds: float) -> None:
        self._source, self._sink, self._seconds = source, sink, seconds
        self._under_way: queue.SimpleQueue[tuple[float, bytes | None]] = queue.SimpleQueue()

    def receive(self) -> None:
        """Read to the end of the direction. A reset is noted as None."""
        data: bytes | None = b" "
        while data:
            try:
                data = self._source.recv(1 << 16)
            except OSError:
                data = None
            self._under_way.put((time.monotonic() + self._seconds, data))

    def send(self) -> None:
        """Write each piece when it is due; pass on the end, or the reset."""
        while True:
            due, data = self._under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if data:
                    self._sink.sendall(data)
                    continue
                if data is None:
                    _reset(self._sink)
                else:
                    self._sink.shutdown(socket.SHUT_WR)
            except OSError:  # the receiver has left: so must the sender
                _reset(self._source)
            return


def relay(client: socket.socket, target: tuple[str, int], seconds: float) -> None:
    """Serve one connection to its end."""
    try:
        server = socket.create_connection(target)
    except OSError:
        _reset(client)
        client.close()
        return
    with client, server:
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = (Direction(client, server, seconds), Direction(server, client, seconds))
        parts = [part for way in ways for part in (way.receive, way.send)]
        threads = [threading.Thread(target=part, daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _reset(sock: socket.socket) -> None:
    """Make closing a socket a reset, and wake the thread that reads from it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        sock.shutdown(socket.SHUT_RD)


def main() -> None:
    """Relay until the process is ended."""
    address, target, milliseconds = sys.argv[1:]
    host, _, port = target.rpartition(":")
    listener = socket.create_server((address, 0))
    print(f"relay on port {listener.getsockname()[1]}", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(
            target=relay,
            args=(client, (host, int(port)), float(milliseconds) / 1000),
            daemon=True,
        ).start()


if __name__ == "__main__":
    main()
