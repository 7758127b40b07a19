"""Tells systemd what the server does (``sd_notify``): ready, reloading, stopping, alive.

systemd names a socket in ``NOTIFY_SOCKET``. Without it, nothing is sent. See ``sd_notify(3)``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def notify(*lines: str) -> bool:
    """Send assignments such as ``READY=1``; return whether there was somebody to send them to."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
        return False
    address = f"\0{name[1:]}" if name[0] == "@" else name  # "@": Linux's abstract names
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as ex:
        log.warning("systemd cannot be told %s: %s", lines[0], ex)
        return False
    return True


def ready() -> None:
    """The server takes connections, or has finished reading its settings again."""
    notify("READY=1")


def reloading() -> None:
    """The server reads its settings again; :func:`ready` must follow."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The server lets running answers finish, and ends."""
    notify("STOPPING=1")


def watchdog_interval() -> float | None:
    """Return every how many seconds systemd wants to be told that the server is alive; None if it
    does not want that."""
    with contextlib.suppress(KeyError, ValueError):
        for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(os.environ["WATCHDOG_USEC"])
        if for_us and microseconds > 0 and "NOTIFY_SOCKET" in os.environ:
            return microseconds / 2e6
    return None


class Heartbeat:
    """Tells systemd that the server is alive, as long as the loop that serves sockets runs.

    If the loop hangs, systemd is told nothing, and restarts the service.

    Args:
        in_loop: has the loop call a function soon.
        every: seconds between two messages.
    """

    def __init__(self, in_loop: Callable[[Callable[[], None]], None], every: float) -> None:
        self._in_loop = in_loop
        self._every = every
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            turned = threading.Event()
            self._in_loop(turned.set)
            if turned.wait(self._every):
                notify("WATCHDOG=1")
            if self._stopped.wait(self._every if turned.is_set() else 0.0):
                return
