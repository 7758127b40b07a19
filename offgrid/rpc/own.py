"""Connections and listening sockets of this process, as the system knows them."""

from __future__ import annotations

from typing import Any

import psutil


def listening_port() -> tuple[int, int] | None:
    """Return port and descriptor of the TCP socket on which this process listens; None if there is
    none. For a process that has only one."""
    for one in _connections():
        if one.status == psutil.CONN_LISTEN:
            return int(one.laddr.port), int(one.fd)
    return None


def has_connected(local: tuple[str, int], remote: tuple[str, int]) -> bool:
    """Return whether a socket of this process is connected from ``local`` to ``remote``."""
    return any(
        tuple(one.laddr) == local and tuple(one.raddr) == remote
        for one in _connections()
        if one.raddr
    )


def _connections() -> list[Any]:
    process = psutil.Process()
    # psutil 6 has renamed the method.
    look = getattr(process, "net_connections", None) or process.connections
    return list(look(kind="tcp"))
