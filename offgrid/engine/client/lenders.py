"""What other machines lend, as far as this one knows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

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
        """Held while servers are asked."""
        self._state = threading.Lock()
        """Guards what follows."""
        self._asked = self._answered = -math.inf
        """When the servers were asked for ``_lent``, and when the last of them had answered."""
        self._forgotten = 0
        """How often :meth:`forget` was called."""
        self._lent: tuple[Lent, ...] = ()

    @property
    def lent(self) -> tuple[Lent, ...]:
        """What the last :meth:`refresh` has found. Does not wait."""
        return self._lent

    def knows(self, since: float = -math.inf) -> bool:
        """Return whether :attr:`lent` is no older than ``since``, and nothing was forgotten. Does
        not wait."""
        with self._state:
            return self._asked > -math.inf and self._asked >= since

    def refresh(self, since: float = -math.inf) -> None:
        """Ask the servers again, at the same time, unless that was done a moment ago. This may take
        seconds, so the caller must hold no lock.

        Args:
            since: what was asked before that is not used.
        """
        with self._lock:
            fresh = _FRESH_PROBLEM if any(one.problem for one in self._lent) else _FRESH
            if self.knows(since) and self._clock() - self._answered < fresh:
                return
            # The settings may change, or a server be lost, while the others answer.
            while True:
                before = self._forgotten
                asked = self._clock()
                found = self._ask()
                with self._state:
                    if self._forgotten == before:
                        self._lent = tuple(replace(one, asked=asked) for one in found)
                        self._asked, self._answered = asked, self._clock()
                        return

    def forget(self) -> None:
        """Ask again at the next :meth:`refresh`: the settings have changed."""
        with self._state:
            self._forgotten += 1
            self._asked = -math.inf

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
    found: list[RpcServer] = []
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
