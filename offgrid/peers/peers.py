"""Everything about peers that a server holds, made once at its start."""

from __future__ import annotations

from offgrid.config import Settings
from offgrid.peers.book import Book
from offgrid.peers.connection import PeerConnections
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.identity import Identity, load_identity


class Peers:
    """This machine and its peers.

    Args:
        settings: checked settings, with ``peers`` on.

    Attributes:
        identity: this machine.
        book: the machines that were paired.
        contexts: the TLS contexts of the peers port.
        connections: connections to the peers.
        port: the peers port; 0 until :meth:`start`.

    Raises:
        ConfigError: libraries are missing, or the folder of the peers cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.identity: Identity = load_identity(settings.peers_dir, settings.peers_name)
        self.book = Book(settings.peers_dir)
        self.contexts = ServerContexts(self.identity, self.book)
        self.connections = PeerConnections(self.identity, self.book)
        self.port = 0

    @classmethod
    def of(cls, settings: Settings) -> Peers | None:
        """Return what the settings ask for; None if ``peers`` is off.

        Raises:
            ConfigError: as the constructor.
        """
        return cls(settings) if settings.peers else None

    def start(self, port: int) -> None:
        """Begin to talk to other machines. The server listens on the peers port already."""
        self.port = port

    def close(self) -> None:
        """End all threads and connections. Idempotent."""
        self.connections.close()
