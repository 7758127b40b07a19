"""``GET /v1/peers``: this machine, its peers, and machines that were found and are not paired."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import falcon
import msgspec

from offgrid import __version__
from offgrid.addresses import place
from offgrid.api.http.scopes import PEERS
from offgrid.api.peers.pairing import needed
from offgrid.api.shapes import Json
from offgrid.caller import Limits
from offgrid.config import BY_NAME
from offgrid.peers.addresses import Addressed
from offgrid.peers.found import FoundMachine
from offgrid.peers.peers import Peers
from offgrid.peers.table import KnownPeer

_NOTHING: Json = {
    "object": "peer", "id": None, "name": "", "fingerprint": None, "addresses": [], "port": None,
    "version": None, "state": "unknown", "problem": None, "last_seen": None, "paired": False,
    "paired_at": None, "models": [], "models_left_out": 0, "slots": None, "queue": None,
    "tokens_per_second": None, "rpc": None, "models_allowed": None, "limits": None,
}  # fmt: skip
"""What is known about a machine of which nothing is known."""


class PeersResource:
    """All peers, in the order in which they were paired; after them, the found machines."""

    scopes = PEERS

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List what is known now, and ask the peers more often for the next seconds."""
        peers = needed(self._peers)
        known = peers.table.look()
        peers.addresses.look()
        desk = peers.desk.state()
        is_open = desk.state == "open"
        resp.media = {
            "object": "list",
            "self": _self(peers),
            "data": [
                *(described(one) for one in known),
                *found_machines(known, peers.found.all(), peers.addresses.all()),
            ],
            "pairing": {"open": is_open, "expires_at": desk.expires_at if is_open else None},
        }

    on_head = on_get


def described(known: KnownPeer) -> Json:
    """Return what is known about a peer."""
    peer, report = known.peer, known.report
    models = peer.grant.models
    row: Json = {
        **_NOTHING,
        "id": peer.id,
        "name": peer.name,
        "fingerprint": peer.fingerprint,
        "addresses": list(peer.addresses),
        "port": peer.port,
        "state": known.state,
        "problem": known.problem or None,
        "last_seen": _seconds(known.last_seen),
        "paired": True,
        "paired_at": peer.paired_at,
        "models_allowed": None if models is None else sorted(models),
        "limits": limits_of(peer.grant.limits),
    }
    if report is not None:
        row |= {
            "version": report.version,
            "models": msgspec.to_builtins(report.models),
            "models_left_out": report.models_left_out,
            "slots": {"total": report.slots_total, "free": report.slots_free},
            "queue": report.queue,
            "tokens_per_second": report.tokens_per_second,
            "rpc": None if report.rpc is None else msgspec.to_builtins(report.rpc),
        }
    return row


def found_machines(
    known: Iterable[KnownPeer], heard: Iterable[FoundMachine], addressed: Iterable[Addressed]
) -> list[Json]:
    """Return the machines that are not paired: those that mDNS has found, and what is at the
    addresses of the settings."""
    left_out = {one.peer.id for one in known}
    places = {(address, one.peer.port) for one in known for address in one.peer.addresses}
    rows: dict[object, Json] = {}
    for machine in heard:
        if machine.id not in left_out:
            rows[machine.id] = {
                **_NOTHING,
                "id": machine.id,
                "name": machine.name,
                "addresses": list(dict.fromkeys(address for address, _ in machine.places)),
                "port": machine.places[0][1],
                "version": machine.version,
                "last_seen": _seconds(machine.last_seen),
            }
    for one in addressed:
        if one.id not in left_out and one.place not in places:
            rows.setdefault(one.id or one.place, _at_address(one))
    return list(rows.values())


def limits_of(limits: Limits) -> Json:
    """Return the limits of a peer."""
    return dataclasses.asdict(limits)


def _at_address(one: Addressed) -> Json:
    host, port = one.place
    return {
        **_NOTHING,
        "id": one.id or None,
        "name": place(host, port, int(BY_NAME["peers_port"].default)),
        "addresses": [host],
        "port": port,
        "state": "unknown" if one.answers else "unreachable",
        "problem": None if one.answers else "No machine answers at this address of peer_addresses.",
        "last_seen": _seconds(one.last_seen),
    }


def _self(peers: Peers) -> Json:
    identity = peers.identity
    return {
        "id": identity.id,
        "name": identity.name,
        "version": __version__,
        "addresses": peers.hosts(),
        "port": peers.port,
        "fingerprint": identity.fingerprint,
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
