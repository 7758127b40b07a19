"""Servers with peers, in this process, and requests between them."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from support import TIMEOUT

from offgrid.peers.book import Peer
from offgrid.peers.connection import PeerConnection, Place
from offgrid.peers.contexts import client_context
from offgrid.peers.peers import Peers
from offgrid.server import Server
from offgrid.store.hashes import Hashes

REFUSED = r"(?i)ssl|reset|EOF|ended|closed|pipe"
"""How a connection ends without an answer; it depends on the moment."""


@dataclass
class Machine:
    """A running server with peers on."""

    server: Server

    @property
    def peers(self) -> Peers:
        """Its peers."""
        assert self.server.peers is not None
        return self.server.peers

    @property
    def models(self) -> Path:
        """Its models directory."""
        return self.server.settings.models_dir

    def hashes(self) -> Hashes:
        """The known hashes of its files."""
        return Hashes.beside(self.server.settings.responses_file)

    def as_peer(self) -> Peer:
        """This machine, as others write it into their books."""
        identity = self.peers.identity
        return Peer(
            name=identity.name, certificate=identity.certificate, addresses=("127.0.0.1",),
            port=self.peers.port, paired_at=int(time.time()),
        )  # fmt: skip

    def know(self, other: Machine) -> None:
        """Write another machine into the book, and this one into the book of the other."""
        self.peers.book.add(other.as_peer())
        other.peers.book.add(self.as_peer())

    def reach(self, other: Machine, port: int) -> None:
        """Look for another machine at a port of this one, and nowhere else, wherever it asks from;
        kept connections to it end."""
        self.reach_peer(other.as_peer(), port)

    def reach_peer(self, other: Peer, port: int) -> None:
        """The same for a machine that is not in this process."""
        connections, fingerprint = self.peers.connections, other.fingerprint
        self.peers.book.add(msgspec.structs.replace(other, port=port))
        where, keep = type(connections)._where, type(connections).keep

        # A connection to the earlier port may just be made. The book learns then that the machine
        # was found there, and the connection would be kept.
        def where_now(peer: Peer) -> list[Place]:
            places = where(connections, peer)
            is_other = peer.fingerprint == fingerprint
            return [(places[0][0], port)] if is_other else places

        def keep_there(connection: PeerConnection) -> None:
            if connection.peer.fingerprint == fingerprint and connection.place[1] != port:
                connection.close()
            else:
                keep(connections, connection)

        connections._where = where_now  # type: ignore[method-assign]
        connections.keep = keep_there  # type: ignore[method-assign]
        with connections._lock:
            old = connections._idle.pop(fingerprint, [])
        for connection in old:
            connection.close()

    def ask(self, other: Machine, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request to another machine's peers port; return the response, which was read.

        Raises:
            OSError: the connection is refused.
        """
        context = client_context(self.peers.identity, other.as_peer())
        return ask(other, context, method, path, body)


def ask(
    machine: Machine,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Send a request to a machine's peers port with a TLS context; return the response, which was
    read; its body is ``content``."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", machine.peers.port, timeout=TIMEOUT, context=context
    )
    try:
        connection.request(method, path, body, dict(headers or {}))
        response: Any = connection.getresponse()
        response.content = response.read()
        return response
    finally:
        connection.close()
