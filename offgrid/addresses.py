"""The names and addresses under which other devices find this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import psutil

_VIRTUAL = (
    "docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "flannel", "podman", "lxc", "lxd",
    "kube", "cali", "vEthernet", "bridge", "tun", "tap", "wg", "utun", "awdl", "llw",
)  # fmt: skip
"""Beginnings of the names of interfaces to containers, virtual machines and tunnels."""


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
