"""A cable between two programs of this machine: TCP that a test cuts or holds up."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

SIZE = 1 << 16


class Wire:
    """Passes connections on to a port of this machine.

    Args:
        port: where they go.

    Attributes:
        port: where they come from.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._free = threading.Event()
        self._free.set()
        self._is_cut = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def hold_up(self) -> None:
        """Pass nothing on, as if the cable were cut or the other program stopped."""
        self._free.clear()

    def cut(self) -> None:
        """End all connections, as the system does when a program ends; new ones are refused."""
        self._is_cut = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in [*self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self.cut()
        self._free.set()
        for thread in [*self._threads]:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _start(self, function: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                self._free.wait()
                if self._is_cut:
                    return
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets.append(far)
                self._start(self._pass_on, near, far)
                self._start(self._pass_on, far, near)

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(SIZE):
                self._free.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
