"""Divides the layers of a model among this machine and others that lend memory. Pure.

A step passes through all machines one after the other, so a machine more never makes it faster.
Therefore other machines get only the layers for which there is no room here, and as few machines
as possible are used, unless the setting ``rpc_layers`` says otherwise.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offgrid.engine.memory import MIB, written
from offgrid.rpc.endpoint import Placed, RpcServer

AUTOMATIC = -1
"""Value of the setting ``rpc_layers``: as many as have no room on this machine."""
_RESERVE = 64 * MIB
_UNKNOWN = 1 << 62


@dataclass(frozen=True, slots=True)
class Lent:
    """A server and what it lends.

    Attributes:
        server: the server.
        free: bytes of memory that it can lend now.
        problem: why it lends nothing; empty if it does.
        asked: when it was asked, in monotonic seconds.
    """

    server: RpcServer
    free: int = 0
    problem: str = ""
    asked: float = 0.0

    def __str__(self) -> str:
        return self.problem or f"the RPC worker {self.server.name} has {written(self.free)} free"


@dataclass(frozen=True, slots=True)
class Borrowed:
    """How much memory of a server a model takes."""

    server: RpcServer
    size: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What a layer needs on another machine.

    Attributes:
        layers: number of layers of the model; 0 if unknown.
        layer: bytes of a layer with its part of the cache; 0 if unknown.
        compute: bytes that a machine needs besides.
    """

    layers: int
    layer: int
    compute: int


def place_of(server: RpcServer) -> tuple[object, ...]:
    """Return what two servers have in common that are the same one, whatever their names."""
    return (server.certificate or server.addresses, server.port)


def spread(
    demand: Demand, lent: Sequence[Lent], asked: int, fits: Callable[[int], bool]
) -> tuple[Placed, ...] | None:
    """Return how many layers each server gets; None if there is not enough memory.

    Args:
        demand: what the layers need.
        lent: the servers.
        asked: the setting ``rpc_layers``.
        fits: whether this machine has memory for the model without so many of its layers.
    """
    rooms = [(one.server, _room(one, demand)) for one in lent if not one.problem]
    rooms = [(server, room) for server, room in rooms if room > 0]
    most = min(sum(room for _, room in rooms), demand.layers or _UNKNOWN)
    if asked == AUTOMATIC:
        # The more layers go, the less memory is needed here.
        count = 1 + bisect.bisect_left(range(1, most + 1), True, key=fits)
        return _fill(rooms, count) if count <= most else None
    count = min(asked, demand.layers or asked)
    if not 0 < count <= most or not fits(count):
        return None
    return _share(rooms, count)


def borrowed(demand: Demand, placed: Sequence[Placed]) -> tuple[Borrowed, ...]:
    """Return how much memory of each server layers take that were placed there."""
    return tuple(Borrowed(one.server, one.layers * demand.layer + demand.compute) for one in placed)


def _room(one: Lent, demand: Demand) -> int:
    """Return for how many layers a server has room."""
    spare = one.free - demand.compute - _RESERVE
    return max(0, spare // demand.layer) if demand.layer else _UNKNOWN


def _fill(rooms: list[tuple[RpcServer, int]], count: int) -> tuple[Placed, ...]:
    """Give the layers to as few servers as possible."""
    placed = []
    for server, room in sorted(rooms, key=lambda one: -one[1]):
        if count > 0:
            placed.append(Placed(server, min(room, count)))
            count -= room
    return tuple(placed)


def _share(rooms: list[tuple[RpcServer, int]], count: int) -> tuple[Placed, ...]:
    """Give the layers to all servers, as their memory allows: 3 and 1 layers if one has three
    times the room of the other."""
    placed, left = [], sum(room for _, room in rooms)
    for server, room in rooms:
        part = min(room, count, -(-count * room // left))
        if part:
            placed.append(Placed(server, part))
        count -= part
        left -= room
    return tuple(placed)
