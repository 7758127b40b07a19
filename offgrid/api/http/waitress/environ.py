"""Questions of the application to the server, through the environment of a WSGI request.

Under a server other than waitress the functions return defaults: connected, no direct output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

WRITE = "offgrid.write"
"""Key of a WSGI environment: the server's ``write`` (PEP 3333), kept by the application."""

BODY = "offgrid.body"
"""Key of a WSGI environment: the body of a streamed response, until the server has it."""

ON_PEERS_PORT = "offgrid.peers_port"
"""Key of a WSGI environment: present if the request came through the peers port."""
PEER = "offgrid.peer"
"""Key of a WSGI environment: the fingerprint of the certificate that the peer proved; empty if the
connection has none."""


def on_peers_port(env: Mapping[str, Any]) -> bool:
    """Return whether a request came through the peers port."""
    return ON_PEERS_PORT in env


def liveness(env: dict[str, Any]) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected.

    waitress knows this if it reads ahead (``channel_request_lookahead`` of at least 1). Other
    servers provide no such function; then only the next write shows that the client has left.
    """
    disconnected = env.get("waitress.client_disconnected")
    if disconnected is None:
        return lambda: True
    return lambda: not disconnected()


def when_gone(env: dict[str, Any], listener: Callable[[], None]) -> Callable[[], None]:
    """Have a function called when the client leaves, on any thread, at once if it has left already.

    It may be called more than once, and must not wait. Other servers than waitress never call it.

    Returns:
        A function that ends this.
    """
    channel = _channel(env)
    return (lambda: None) if channel is None else channel.when_closed(listener)


def _channel(env: dict[str, Any]) -> Any:
    """Return the connection of a request; None under another server, or another class of it."""
    channel = getattr(env.get("waitress.client_disconnected"), "__self__", None)
    return channel if hasattr(channel, "when_closed") else None


def memory(env: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary that lives as long as the request's connection, or only as long as the
    request under another server."""
    channel = getattr(env.get("waitress.client_disconnected"), "__self__", None)
    if channel is None:
        return {}
    found: dict[str, Any] = channel.__dict__.setdefault("offgrid_memory", {})
    return found


class DirectOutput:
    """The response of a waitress task, which may be written to from any thread."""

    def __init__(self, write: Callable[[bytes], None], channel: Any) -> None:
        self.write = write
        """Sends bytes or keeps them for later; raises if the client has left."""
        self._channel = channel

    @property
    def backlog(self) -> int:
        """Number of bytes kept."""
        return int(self._channel.total_outbufs_len)


def direct_output(env: dict[str, Any]) -> DirectOutput | None:
    """Return a way to write outside the WSGI iteration, or None if the server has none."""
    write = env.get(WRITE)
    channel = getattr(getattr(write, "__self__", None), "channel", None)
    if write is None or not hasattr(channel, "total_outbufs_len"):
        return None
    return DirectOutput(write, channel)
