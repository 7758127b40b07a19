"""A server that lends memory, as settings and commands name it."""

from __future__ import annotations

import ipaddress

import msgspec

from offgrid.errors import ConfigError

MAX_SERVERS = 16
"""``GGML_RPC_MAX_SERVERS``: llama.cpp uses no more than so many servers."""


class RpcServer(msgspec.Struct, frozen=True):
    """A server that lends memory.

    ``certificate`` (PEM) is the only one that a peer may show; ``cert_file`` and ``key_file`` are
    what this machine shows. A server without a certificate is a port of this machine on which
    ggml's RPC server itself answers, for example the end of an SSH tunnel.
    """

    name: str
    addresses: tuple[str, ...]
    port: int
    certificate: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def is_peer(self) -> bool:
        """Whether it is reached over TLS."""
        return bool(self.certificate)


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A server, and how many layers of a model it gets."""

    server: RpcServer
    layers: int


def local_server(text: str) -> RpcServer | None:
    """Return the server that ``host:port`` names; None for the name of a peer.

    Raises:
        ConfigError: the port is wrong, or the address is not one of this machine.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        return None
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"rpc_servers: {text!r} has no port from 1 to 65535 after the colon.")
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"rpc_servers: {text!r} is not on this machine. llama.cpp's RPC has neither a password "
            "nor encryption, so it must not cross a network by itself: pair the machines and name "
            "the peer, or name the local end of a tunnel, such as 127.0.0.1:50052."
        )
    return RpcServer(text, (address,), int(port))
