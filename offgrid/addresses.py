"""The names and addresses under which other devices find this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

import psutil

_VIRTUAL = (
    "docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "flannel", "podman", "lxc", "lxd",
    "kube", "cali", "vEthernet", "bridge", "tun", "tap", "wg", "utun", "awdl", "llw",
)  # fmt: skip
"""Beginnings of the names of interfaces to containers, virtual machines and tunnels."""
_ADDRESS = re.compile(
    r"(?:\[(?P<inner>[0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\](?::(?P<p1>[0-9]{1,5}))?"
    r"|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[\w.~-]+)?)"
    r"|(?P<name>[\w.~-]{1,253})(?::(?P<p2>[0-9]{1,5}))?)"
)
"""A host name or an address, and a port; IPv6 with a port in brackets."""


def own_names() -> frozenset[str]:
    """Return the names of this machine in lower case: its host name with and without a domain, and
    the name that multicast DNS gives it. Asks no server."""
    name = socket.gethostname().lower().rstrip(".")
    first = name.partition(".")[0]
    if not first:
        return frozenset()
    return frozenset({name, first, f"{first}.local"})


def interface_addresses(family: socket.AddressFamily) -> list[str]:
    """Return the addresses of this machine's interfaces, those of containers and tunnels last.

    Leaves out loopback and link-local addresses. Returns none where the system does not tell.

    Args:
        family: ``AF_INET``, or ``AF_INET6`` for both kinds.
    """
    wanted = {socket.AF_INET, family}
    found: list[tuple[bool, str]] = []
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        for name, addresses in psutil.net_if_addrs().items():
            if name in up:
                found += [
                    (name.startswith(_VIRTUAL), one.address)
                    for one in addresses
                    if one.family in wanted and _is_reachable(one.address)
                ]
    return [address for _, address in sorted(found, key=lambda pair: pair[0])]


def urls(scheme: str, host: str, port: int) -> list[str]:
    """Return the URLs that other devices can use for a server.

    Args:
        scheme: ``http`` or ``https``.
        host: the address that it listens on; ``0.0.0.0`` and ``::`` stand for all.
        port: its port.
    """
    if host not in ("0.0.0.0", "::"):
        return [url(scheme, host, port)]
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    found = [url(scheme, address, port) for address in interface_addresses(family)]
    names = [name for name in own_names() if name.endswith(".local")]
    if found:
        found += [url(scheme, name, port) for name in names if name != "localhost.local"]
    return found


def url(scheme: str, host: str, port: int) -> str:
    """Return the URL of an address or a name."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _is_reachable(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone, so it is link-local
        return False
    return not (ip.is_loopback or ip.is_link_local or ip.is_unspecified)


def split_address(text: str, port: int) -> tuple[str, int]:
    """Return the host and the port of an address that a person typed.

    Args:
        text: a name or an address, perhaps with a colon and a port. An IPv6 address before a port
            is in brackets: ``[fe80::1%eth0]:11612``.
        port: the port if the text has none.

    Raises:
        ValueError: the text is no such address; the message says what to write.
    """
    parts = _ADDRESS.fullmatch(text.strip())
    if parts is None:
        raise ValueError(
            f"{text[:200]!r} is no address; write a name or an address such as 192.168.1.7, and a "
            "port if it is not the usual one: 192.168.1.7:11612 or [fe80::1%eth0]:11612"
        )
    given = parts["p1"] or parts["p2"]
    if given is not None:
        port = int(given)
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is no port; ports are from 1 to 65535")
    host = parts["inner"] or parts["bare"] or parts["name"]
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise ValueError(f"{host!r} is no IPv6 address") from None
    return host, port


def place(host: str, port: int, usual: int) -> str:
    """Return what a person types for a host and a port: :func:`split_address` reads it again.

    Args:
        host: a name or an address.
        port: its port.
        usual: the port that need not be typed.
    """
    return host if port == usual else url("", host, port).removeprefix("://")


def unmapped(address: str) -> str:
    """Return an address; for ``::ffff:10.0.0.1``, as sockets of IPv6 show it, that of IPv4."""
    mapped = None
    with contextlib.suppress(ValueError):
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return address if mapped is None else str(mapped)


def of_socket(name: Sequence[Any]) -> str:
    """Return the address in what a socket calls itself or its peer. A link-local address gets the
    zone without which no connection to it is possible: ``fe80::1%eth0``.

    Args:
        name: of a socket of IPv4 or IPv6, as ``getpeername`` and ``accept`` return it.
    """
    address = str(name[0])
    if len(name) < 4 or not name[3] or "%" in address:
        return address
    try:
        return f"{address}%{socket.if_indextoname(name[3])}"
    except OSError:  # the interface has just been removed
        return address


def group_of(address: str) -> str:
    """Return the name of the machine or household that an address stands for.

    A household with IPv6 has 2^64 addresses, so only the first 64 bits count. Link-local addresses
    all begin with the same 64 bits, so they count as a whole.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address or "unix"
    if ip.version == 6:
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        if ip.is_link_local:
            return str(ip)
        return str(ipaddress.ip_network((int(ip), 64), strict=False).network_address)
    return str(ip)
