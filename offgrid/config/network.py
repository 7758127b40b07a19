"""Addresses in settings and requests: which are this machine, and which networks a list names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Stands for every client of a Unix socket, which has no IP address."""


def to_address(text: str) -> Address | None:
    """Return an IP address, without its zone; an IPv4 address that is written as IPv6 becomes
    IPv4. None if the text is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local(client: str) -> bool:
    """Return whether a client is on this machine.

    Args:
        client: its IP address. Any other text is one that servers give for a Unix socket.
    """
    address = to_address(client)
    return address is None or address.is_loopback


def networks(names: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks that a list of addresses and networks names; :data:`UNIX` is none.

    Raises:
        ValueError: an item is neither.
    """
    return tuple(ipaddress.ip_network(name, strict=False) for name in names if name != UNIX)
