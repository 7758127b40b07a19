"""Connections of which a lender does not know yet whether they come from a peer."""

from __future__ import annotations

import ssl
import threading
from collections import Counter

from offgrid.rpc.messages import end_connection

MOST = 32
MOST_OF_ONE = 8
"""Connections of one machine, so that no stranger can keep all peers from borrowing."""


class Newcomers:
    """Connections before the end of their handshake. Thread-safe.

    If there are too many, the one ends that has waited longest: a peer needs less than a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[ssl.SSLSocket, str] = {}
        """Connection -> the machine that it comes from; the oldest first."""

    def add(self, connection: ssl.SSLSocket, group: str) -> None:
        """Note a connection of a machine; another one may end for it."""
        with self._lock:
            self._groups[connection] = group
            sizes = Counter(self._groups.values())
            if sizes[group] > MOST_OF_ONE:
                crowd = group
            elif len(self._groups) > MOST:
                crowd = sizes.most_common(1)[0][0]
            else:
                return
            victim = next(one for one, its in self._groups.items() if its == crowd)
            del self._groups[victim]
        end_connection(victim)

    def remove(self, connection: ssl.SSLSocket) -> None:
        """Note that a connection has proved that it is a peer's, or has ended. Idempotent."""
        with self._lock:
            self._groups.pop(connection, None)
