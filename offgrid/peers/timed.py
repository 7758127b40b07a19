"""Sockets of connections to peers."""

from __future__ import annotations

import hashlib
import socket
import time
from typing import Any

from offgrid.tls import SecureSocket

_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that was switched off is noticed after 25 seconds, even if nothing is sent."""


class TimedSocket(SecureSocket):
    """A socket that waits for a limited time: for each part that is read, or until a moment."""

    _silence = 60.0
    _deadline: float | None = None

    def allow(self, silence: float, deadline: float | None = None) -> None:
        """Set how long it waits.

        Args:
            silence: seconds for each part that is read or written.
            deadline: in seconds of ``time.monotonic``; a peer that sends single bytes slowly does
                not get more time than that.
        """
        self._silence, self._deadline = silence, deadline
        self.settimeout(silence)

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        """Read into a buffer; see :meth:`socket.socket.recv_into`.

        Raises:
            TimeoutError: nothing came in time.
        """
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no time is left")
            self.settimeout(min(left, self._silence))
        return super().recv_into(*arguments, **options)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate at the other end, 64 hexadecimal digits."""
        return hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()


def tune(sock: socket.socket) -> None:
    """Send small parts at once, and notice a machine that was switched off."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        option = getattr(socket, name, None)  # systems have different ones
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
