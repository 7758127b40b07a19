"""What other machines lend, as far as this one knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from offgrid.config import Settings
from offgrid.engine.client.spread import Lent
from offgrid.errors import ConfigError, OffgridError, RpcError
from offgrid.rpc.connection import status
from offgrid.rpc.endpoint import RpcServer, local_server
from offgrid.rpc.probe import probe

_FRESH, _FRESH_PROBLEM = 10.0, 2.0
"""Seconds for which an answer is used, and for which it is if a server lends nothing: it may come
back."""
_SECONDS = 3.0
"""Time for the answer of a server."""


class Lenders:
    """Asks the servers that lend memory how much that is. Thread-safe.

    Args:
        servers: returns the servers of the settings. Raises OffgridError if one is not known.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[RpcServer]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._forgotten = 0
        """How often :meth:`forget` was called."""
        self._lent: tuple[Lent, ...] = ()

    @property
    def lent(self) -> tuple[Lent, ...]:
        """What the last :meth:`refresh` has found. Does not wait."""
        return self._lent

    def refresh(self) -> None:
        """Ask the servers again, at the same time, unless that was done a moment ago. This may take
        seconds, so the caller must hold no lock."""
        with self._lock:
            now = self._clock()
            fresh = _FRESH_PROBLEM if any(one.problem for one in self._lent) else _FRESH
            if self._asked is not None and now - self._asked < fresh:
                return
            # The settings may change, or a server be lost, while the others answer.
            while True:
                before = self._forgotten
                self._lent = self._ask()
                self._asked = self._clock()
                if self._forgotten == before:
                    return

    def forget(self) -> None:
        """Ask again at the next :meth:`refresh`: a server was lost, or the settings have
        changed."""
        self._forgotten += 1
        self._asked = None

    def _ask(self) -> tuple[Lent, ...]:
        try:
            servers = self._servers()
        except OffgridError as ex:
            return (Lent(RpcServer("", (), 0), problem=str(ex).rstrip(".")),)
        found: list[Lent] = [Lent(server, problem="not asked") for server in servers]

        def ask(index: int) -> None:
            found[index] = ask_lender(servers[index])

        threads = [
            threading.Thread(target=ask, args=(index,), name="rpc-status", daemon=True)
            for index in range(len(found))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return tuple(found)


def local_servers(settings: Settings) -> list[RpcServer]:
    """Return the servers of the settings, all of which must be ports of this machine.

    Raises:
        ConfigError: one is not.
    """
    found = []
    for text in settings.rpc_servers:
        server = local_server(text)
        if server is None:
            raise ConfigError(f"rpc_servers: {text!r} is not host:port.")
        found.append(server)
    return found


def ask_lender(server: RpcServer) -> Lent:
    """Ask a server what it lends."""
    try:
        if server.is_peer:
            offer = status(server, _SECONDS)
            return Lent(server, offer.free)
        found = probe(server.addresses[0], server.port, _SECONDS)
        return Lent(server, sum(free for free, _ in found.memory))
    except RpcError as ex:
        named = server.name in str(ex)
        return Lent(server, problem=str(ex) if named else f"the RPC server {server.name}: {ex}")
