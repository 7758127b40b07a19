"""Peers that lend memory: which servers the settings name, and what a lender knows of borrowers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from offgrid.config import BY_NAME, Settings
from offgrid.engine.client.spread import place_of
from offgrid.errors import ConfigError, OffgridError
from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import Identity, load_identity
from offgrid.rpc.endpoint import MAX_SERVERS, RpcServer, local_server

log = logging.getLogger(__name__)

STATUS_FILE = "rpc.json"
"""What the RPC worker of this machine says of itself, in the folder ``peers_dir``."""
ALL = "peers"
"""In the setting ``rpc_servers``: all peers that lend memory."""
_PORT = int(BY_NAME["rpc_port"].default)


def rpc_servers(settings: Settings) -> list[RpcServer]:
    """Return the servers that the setting ``rpc_servers`` names, peers and others, each once.

    Raises:
        ConfigError: one of them is neither a peer nor a port of this machine, or its port is wrong,
            or there are too many.
    """
    names = settings.rpc_servers
    if not names:
        return []
    book = Book(settings.peers_dir)
    found: list[RpcServer] = []
    for name in names:
        found += _peers(settings, book) if name == ALL else [_server(settings, book, name)]
    # "peers,strong" names strong twice, and its memory is there once.
    found = [*{place_of(one): one for one in found}.values()]
    if len(found) > MAX_SERVERS:
        raise ConfigError(f"rpc_servers: llama.cpp uses at most {MAX_SERVERS} servers.")
    return found


def warn_of_rpc_servers(settings: Settings) -> Callable[[], None]:
    """Log what is wrong with the setting ``rpc_servers``: a model that has room on this machine is
    loaded without a look at it. Returns what puts new settings into force, which is nothing."""
    try:
        rpc_servers(settings)
    except OffgridError as ex:
        log.warning("%s Until then, no model can use other machines.", ex)
    return lambda: None


def _peers(settings: Settings, book: Book) -> list[RpcServer]:
    """Return all peers; those that lend nothing will not answer."""
    peers = book.all()
    if not peers:
        return []
    identity = load_identity(settings.peers_dir, settings.peers_name)
    return [server_of(identity, peer, _PORT) for peer in peers[:MAX_SERVERS]]


def _server(settings: Settings, book: Book, name: str) -> RpcServer:
    server = _peer(settings, book, name) or local_server(name)
    if server is None:
        raise ConfigError(
            f"rpc_servers: {name!r} is not a peer of this machine. 'offgrid peers list' shows the "
            "peers, 'offgrid peers pair' makes one."
        )
    return server


def _peer(settings: Settings, book: Book, text: str) -> RpcServer | None:
    peer, port = book.find(text), _PORT
    if peer is None:
        name, _, number = text.rpartition(":")
        peer = book.find(name) if name and number.isdecimal() else None
        port = int(number) if peer is not None else port
    if not 0 < port < 1 << 16:
        raise ConfigError(f"rpc_servers: {text!r} has no port from 1 to 65535 after the colon.")
    if peer is None:
        return None
    return server_of(load_identity(settings.peers_dir, settings.peers_name), peer, port)


def server_of(identity: Identity, peer: Peer, port: int) -> RpcServer:
    """Return a peer as a server that lends memory.

    Args:
        identity: this machine.
        peer: the peer.
        port: the port of its RPC worker.
    """
    return RpcServer(
        peer.name,
        peer.addresses,
        port,
        certificate=peer.certificate,
        cert_file=str(identity.certificate_file),
        key_file=str(identity.key_file),
    )
