"""Connections of the peers port."""

from __future__ import annotations

import functools
import hashlib
import socket
from typing import Any, NamedTuple

from offgrid.addresses import of_socket
from offgrid.api.http.waitress.environ import ON_PEERS_PORT, PEER
from offgrid.api.http.waitress.parser import Parser
from offgrid.api.http.waitress.tls import HasContext, TlsChannel

_MAX_UNPROVED = 8 << 10
"""Bytes of a body from a machine that has proved nothing yet: a message of a pairing."""


class PeersPort(NamedTuple):
    """A listening socket for peers, and what has the TLS context for its connections."""

    socket: socket.socket
    certificate: HasContext


class PeersChannel(TlsChannel):
    """A connection of a peer, or during a pairing one without a certificate, which can send small
    bodies only. A machine that speaks plain HTTP learns nothing here."""

    reused = True  # after each stream, TLS would begin anew

    def known(self) -> dict[str, Any]:
        """Return that it came through the peers port, the fingerprint of its certificate, and an
        address at which this machine can connect to it."""
        return {
            ON_PEERS_PORT: True, PEER: self.fingerprint, "REMOTE_ADDR": of_socket(self.addr),
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate of the machine, 64 hexadecimal digits; empty if it has none,
        or has left."""
        certificate = self._certificate()
        return hashlib.sha256(certificate).hexdigest() if certificate else ""

    def received(self, data: bytes) -> bool:
        """Parse a part of a request."""
        if self.request is None and not self._certificate():
            self.parser_class = _unproved(type(self).parser_class)
        return super().received(data)

    def _certificate(self) -> bytes:
        return self.socket.certificate() if self.socket is not None else b""

    def _refuse_plain(self) -> None:
        self.will_close = True


@functools.cache
def _unproved(parser: type[Parser]) -> type[Parser]:
    """Return a parser class of the same server for machines that have proved nothing yet."""
    return type("UnprovedParser", (parser,), {"most": _MAX_UNPROVED})
