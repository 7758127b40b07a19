"""Connections of the peers port."""

from __future__ import annotations

import hashlib
import socket
from typing import Any, NamedTuple

from offgrid.api.http.waitress.environ import ON_PEERS_PORT, PEER
from offgrid.api.http.waitress.tls import HasContext, TlsChannel


class PeersPort(NamedTuple):
    """A listening socket for peers, and what has the TLS context for its connections."""

    socket: socket.socket
    certificate: HasContext


class PeersChannel(TlsChannel):
    """A connection of a peer. A machine that speaks plain HTTP learns nothing here."""

    reused = True  # after each stream, TLS would begin anew

    def known(self) -> dict[str, Any]:
        """Return that it came through the peers port, and the fingerprint of its certificate."""
        certificate = self.socket.certificate() if self.socket is not None else b""
        fingerprint = hashlib.sha256(certificate).hexdigest() if certificate else ""
        return {ON_PEERS_PORT: True, PEER: fingerprint}

    def _refuse_plain(self) -> None:
        self.will_close = True
