"""Everything about peers that a server holds, made once at its start."""

from __future__ import annotations

import importlib.util
import socket

from offgrid.addresses import interface_addresses, place
from offgrid.config import BY_NAME, Settings, is_loopback
from offgrid.errors import ConfigError
from offgrid.peers.addresses import Addresses, read_addresses
from offgrid.peers.book import Book, Peer
from offgrid.peers.connection import PeerConnections
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.desk import PairingDesk
from offgrid.peers.discovery import Discovery
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.peers.found import FoundMachines, Place
from offgrid.peers.identity import MISSING, Identity, load_identity
from offgrid.peers.joining import pair_with
from offgrid.peers.table import PeerTable


class Peers:
    """This machine and its peers.

    Args:
        settings: checked settings, with ``peers`` on.

    Attributes:
        identity: this machine.
        book: the machines that were paired.
        contexts: the TLS contexts of the peers port.
        desk: shows pairing codes, and answers machines where one is typed.
        connections: connections to the peers.
        table: the state of each peer.
        found: machines that were found by mDNS.
        addresses: machines at the addresses of the settings.
        forwarding: sends requests for models of peers to them.
        port: the peers port; 0 until :meth:`start`.

    Raises:
        ConfigError: libraries are missing, the folder of the peers cannot be used, or an address of
            the settings is none.
    """

    def __init__(self, settings: Settings) -> None:
        self.identity: Identity = load_identity(settings.peers_dir, settings.peers_name)
        self.book = Book(settings.peers_dir)
        self.contexts = ServerContexts(self.identity, self.book)
        self.desk = PairingDesk(self.identity, self.book, settings.peers_dir, self._let_in)
        self.connections = PeerConnections(self.identity, self.book)
        self.table = PeerTable(self.book, self.connections, own_port=lambda: self.port)
        places = read_addresses(settings.peer_addresses, int(BY_NAME["peers_port"].default))
        self.addresses = Addresses(self.identity.id, places)
        self.found = FoundMachines(
            self.identity.id, self._is_peer, loopback=is_loopback(settings.peers_host)
        )
        self._callers: dict[str, Place] = {}
        """Id of a peer -> where it was when it last asked this machine something."""
        self.connections.places = self._places_of
        self._discovery = self._make_discovery(settings)
        self.forwarding = Forwarding(self.connections, lambda: self.table.known())
        self.port = 0
        self._host = settings.peers_host

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
        self.table.start()
        self.addresses.start()
        if self._discovery is not None:
            self._discovery.start(port)

    def pair_with(self, host: str, port: int, code: str) -> Peer:
        """Pair with the machine that shows a code; see :func:`~offgrid.peers.joining.pair_with`."""
        return pair_with(self.identity, self.book, self.port, host, port, code)

    def called(self, fingerprint: str, address: str, port: int) -> None:
        """Note where a peer has just asked from, and at which peers port it says that it listens.
        If it cannot be reached where it was, it is looked for there now."""
        peer = self.book.by_fingerprint(fingerprint)
        if peer is not None:
            self._callers[peer.id] = (address, port)
            self.table.appeared(peer.id)

    def hosts(self) -> list[str]:
        """Return the addresses at which other machines find this one."""
        if self._host not in ("0.0.0.0", "::"):
            return [self._host]
        return interface_addresses(socket.AF_INET6 if self._host == "::" else socket.AF_INET)

    def places(self) -> list[str]:
        """Return where other machines find this one, as a person types it."""
        usual = int(BY_NAME["peers_port"].default)
        return [place(host, self.port, usual) for host in self.hosts()]

    def close(self) -> None:
        """End all threads and connections. Idempotent."""
        self.desk.close()
        self.forwarding.close()
        self.connections.close()
        self.table.close()
        self.addresses.close()
        if self._discovery is not None:
            self._discovery.close()

    def _make_discovery(self, settings: Settings) -> Discovery | None:
        if not settings.peers_discovery:
            return None
        if importlib.util.find_spec("zeroconf") is None:
            raise ConfigError(MISSING)
        return Discovery(self.identity, settings.peers_host, self.found, self.table.appeared)

    def _places_of(self, id: str) -> list[Place]:
        """Return where a machine may be, the most likely places first."""
        # What is at an address of the settings is looked at all the time.
        addressed = sorted(self.addresses.all(), key=lambda one: one.id != id)
        called = filter(None, [self._callers.get(id)])
        return [*self.found.places(id), *called, *(one.place for one in addressed)]

    def _is_peer(self, id: str) -> bool:
        return any(peer.id == id for peer in self.book.all())

    def _let_in(self, is_open: bool) -> None:
        self.contexts.open_pairing(is_open, lambda: self.desk.is_open)
