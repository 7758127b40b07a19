"""The machines behind a load balancer: from arguments, or the peers of the running server."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from offgrid.cli.cluster.haproxy import Machine
from offgrid.config import BY_NAME, is_loopback
from offgrid.errors import OffgridError

API_PORT = int(BY_NAME["port"].default)
_PORTS = {"http": 80, "https": 443}
"""Of URLs without one."""
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::(\d{1,5}))?")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")
_SECONDS = 1.0
"""Until an address counts as one that nothing answers at."""


class NoMachines(OffgridError):
    """There are no machines, or they cannot be used."""


def parsed(address: str) -> Machine:
    """Return the machine at an address such as ``10.0.0.1:11611``, ``ship.local`` or
    ``[fd00::1]:11611``.

    Raises:
        NoMachines: it is no address.
    """
    found = _ADDRESS.fullmatch(address)
    port = int(found[3] or API_PORT) if found else 0
    if found is None or not 1 <= port <= 65535 or (found[1] and not _is_ipv6(found[1])):
        raise NoMachines(
            f"{address!r} is no address; give one like 10.0.0.1:{API_PORT} or [fd00::1]:{API_PORT}"
        )
    host = found[1] or found[2]
    return Machine(f"{host}:{port}", host, port)


def _is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address. HAProxy takes ``[1234]`` for 0.0.4.210."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def given(addresses: Iterable[str]) -> list[Machine]:
    """Return the machines at addresses.

    Raises:
        NoMachines: one is no address, or is given twice.
    """
    machines = [parsed(address) for address in addresses]
    names = [machine.name for machine in machines]
    for name in names:
        if names.count(name) > 1:
            raise NoMachines(f"{name} is given twice; a machine has one address")
    return machines


def known(
    peers: dict[str, Any], url: str, port: int | None, warn: Callable[[str], None]
) -> list[Machine]:
    """Return the running server's machine, and those that are paired with it.

    Peers tell the port of their TLS, which clients cannot use. Their API is expected at the port of
    the running server, and at the first of their addresses where something answers. Addresses with
    a zone are left out: HAProxy cannot connect to them.

    Args:
        peers: the answer of ``GET /v1/peers``.
        url: where the running server was asked.
        port: the port of the peers' API; None for that of the running server.
        warn: is called with what a person has to look after.

    Raises:
        NoMachines: the server listens on a Unix socket or has no peers, or no address of a machine
            can be used.
    """
    where = urlsplit(url)
    if where.hostname is None:
        raise NoMachines(
            f"the server at {url} has no TCP port, so its peers' ports are not known; give the "
            "addresses of the machines"
        )
    paired = [peer for peer in peers["data"] if peer["paired"]]
    if not paired:
        raise NoMachines(
            "the running server has no peers; pair machines with 'offgrid peers pair', or give "
            "their addresses"
        )
    own_port = where.port or _PORTS.get(where.scheme, API_PORT)
    host = _own_address(peers["self"]["addresses"], where.hostname, own_port, warn)
    machines = [_named(peers["self"], host, own_port)]
    port = port or own_port
    for peer in paired:
        machines.append(_named(peer, _address_of(peer, port, warn), port))
    _warn_of_models(paired, warn)
    return _distinct(machines)


def answers(host: str, port: int) -> bool:
    """Whether something listens at an address."""
    try:
        with socket.create_connection((host, port), _SECONDS):
            return True
    except OSError:
        return False


def _usable(addresses: Iterable[str]) -> list[str]:
    """Return the addresses without a zone, such as ``fe80::1%eth0`` has."""
    return [address for address in addresses if "%" not in address]


def _own_address(
    addresses: Iterable[str], asked: str, port: int, warn: Callable[[str], None]
) -> str:
    """Return the address of the running server: one that other machines reach, or else the one
    where it was asked."""
    for address in _usable(addresses):
        if answers(address, port):
            return address
    if not _usable([asked]):
        raise NoMachines(
            f"HAProxy cannot use the running server's address {asked}, because it has a zone; give "
            "the addresses of the machines"
        )
    if is_loopback(asked):
        warn(
            f"the running server answers only at {asked}, port {port}, so the configuration is "
            "only for HAProxy on this machine: for another one, run 'offgrid serve' with --host "
            "0.0.0.0, and with keys or --insecure"
        )
    return asked


def _address_of(peer: dict[str, Any], port: int, warn: Callable[[str], None]) -> str:
    addresses = _usable(peer["addresses"])
    for address in addresses:
        if answers(address, port):
            return address
    if not addresses:
        raise NoMachines(
            f"no address of the peer {peer['name']} is known that HAProxy can use; give the "
            "addresses of the machines"
        )
    warn(
        f"no API answers at {', '.join(addresses)}, port {port}, of the peer {peer['name']}: run "
        "'offgrid serve' there with --host 0.0.0.0, and with keys or --insecure"
    )
    return addresses[0]


def _warn_of_models(paired: Sequence[dict[str, Any]], warn: Callable[[str], None]) -> None:
    """Name models that only some peers have: the others answer 404 for them, or forward. What an
    unreachable peer has is not known."""
    models = {
        peer["name"]: {model["id"] for model in peer["models"]}
        for peer in paired
        if peer["version"] is not None
    }
    every = set().union(*models.values())
    for name, own in models.items():
        if missing := sorted(every - own):
            warn(f"the peer {name} has not all models of the others: {', '.join(missing)}")


def _named(about: dict[str, Any], host: str, port: int) -> Machine:
    name = _FOREIGN.sub("-", str(about["name"])).strip("-")
    return Machine(name or str(about["id"]), host, port)


def _distinct(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines, with their addresses as names where a name is not unique."""
    names = [machine.name for machine in machines]
    return [
        machine if names.count(machine.name) == 1
        else Machine(f"{machine.host}:{machine.port}", machine.host, machine.port)
        for machine in machines
    ]  # fmt: skip
