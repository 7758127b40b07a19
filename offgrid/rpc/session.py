"""One session on the machine that lends: a process, and the two connections of the borrower."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable

from offgrid.errors import RpcError
from offgrid.rpc.child import Child
from offgrid.rpc.messages import (
    ALIVE,
    BEAT,
    BEATS_MISSED,
    STOPPED,
    Offer,
    end_connection,
    read_line,
    send_line,
)
from offgrid.rpc.relay import relay

log = logging.getLogger(__name__)

_SILENCE = 3 * BEATS_MISSED * BEAT
"""Seconds without a line of the borrower after which the session ends."""


class Session:
    """A session. It ends when one of its connections or its process ends, when the borrower is
    silent, or when that is not a peer any more.

    Args:
        child: the process that computes.
        pulse: the connection of its beats.
        name: the borrower, for the log.
        borrower: its certificate's fingerprint; only the same machine may open the connection for
            ggml.
        allowed: whether the borrower may still borrow.

    Attributes:
        id: names the session in the second connection.
    """

    def __init__(
        self,
        child: Child,
        pulse: ssl.SSLSocket,
        name: str,
        borrower: str,
        allowed: Callable[[], bool],
    ) -> None:
        self.id = secrets.token_hex(16)
        self.borrower = borrower
        self._child = child
        self._pulse = pulse
        self._name = name
        self._allowed = allowed
        self._lock = threading.Lock()
        self._data: socket.socket | None = None
        self._taken = False

    def run(self, free: int) -> None:
        """Answer the beats until the session ends; then end its process.

        Args:
            free: bytes of memory that can be lent, for the answer to the borrower.
        """
        started = self._child.started
        offer = Offer(started.build, free, started.devices, self.id)
        try:
            send_line(self._pulse, offer)
            why = self._answer_beats()
        except TimeoutError:
            why = "it has been silent for too long"
        except (OSError, RpcError):
            why = "it has closed the connection"
        log.info("%s borrows no more: %s", self._name, why)
        self.close()

    def close(self) -> None:
        """End the process and the connections."""
        self._child.end()
        with self._lock:
            self._taken = True
            if self._data is not None:
                end_connection(self._data)
        end_connection(self._pulse)

    def serve_data(self, connection: ssl.SSLSocket) -> None:
        """Connect the borrower's second connection with the process, until one of them ends.

        Raises:
            RpcError: the session has such a connection already, or the process accepts none.
        """
        with self._lock:
            if self._taken:
                raise RpcError("the session has a connection already, or it has ended")
            self._taken, self._data = True, connection
        with self._child.connect() as near:
            send_line(connection, Offer(self._child.started.build))
            relay(near, connection)
        end_connection(connection)
        end_connection(self._pulse)

    def _answer_beats(self) -> str:
        """Return why the session ends."""
        while True:
            read_line(self._pulse, _SILENCE)
            state = self._child.state
            if not self._allowed():
                state = "the machines are not paired any more"
            send_line(self._pulse, state)
            if state not in (ALIVE, STOPPED):
                return state


def refuse(connection: ssl.SSLSocket, why: str, build: str = "") -> None:
    """Tell a borrower why it gets nothing."""
    with contextlib.suppress(OSError):
        send_line(connection, Offer(build, error=why))
