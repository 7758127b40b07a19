"""Hosts (``hosts.py``) that know each other without a pairing."""

from __future__ import annotations

import time
from pathlib import Path

from hosts import Host

from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import Identity, load_identity

PORT = 11612


def peers_dir(host: Host) -> Path:
    """The folder of a host's identity and its book."""
    return host.folder / "peers"


def identity(host: Host) -> Identity:
    """A host as its peers know it."""
    return load_identity(peers_dir(host), host.name)


def as_peer(host: Host, port: int = PORT, address: str = "") -> Peer:
    """A host, as others write it into their books; ``address`` is where they look for it."""
    return Peer(
        name=host.name, certificate=identity(host).certificate,
        addresses=(address or host.address,), port=port, paired_at=int(time.time()),
    )  # fmt: skip


def pair(one: Host, other: Host) -> None:
    """Write each of two hosts into the book of the other. Their servers must not run yet."""
    for host, peer in ((one, as_peer(other)), (other, as_peer(one))):
        Book(peers_dir(host)).add(peer)


def peer_flags(host: Host) -> tuple[str, ...]:
    """The flags of a server with peers, which are found by their addresses in the book."""
    return (
        "--peers", "--peers-host", host.address, "--peers-port", str(PORT),
        "--peers-dir", str(peers_dir(host)), "--peers-name", host.name, "--no-peers-discovery",
    )  # fmt: skip
