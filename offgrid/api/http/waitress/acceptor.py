"""Accepts connections, and keeps room for new ones.

waitress stops accepting connections when it has too many, so that clients which hold connections
lock out all others. It also asks the system for a connection again at once after the system had no
file descriptor left, which keeps a core busy for as long as that lasts.

Here, a new connection takes the place of the oldest one that is idle or slow, among those of the
address with the most connections. A connection whose request is being answered is never closed for
another one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer, TcpWSGIServer

from offgrid.addresses import group_of
from offgrid.api.http.error_bodies import openai_error
from offgrid.api.http.error_handlers import http_problem
from offgrid.api.http.headers import protective_headers
from offgrid.api.http.waitress.channel import Channel

log = logging.getLogger(__name__)

_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept() that do not go away by themselves. The connection stays in the queue of the
system, and accept() would be called again at once."""
_PAUSE = 0.5
"""Seconds in which no connection is accepted after such an error."""
_TOLD_AGAIN = 60.0
"""Seconds in which the same warning is logged once."""
_ROUND = 1.0
"""Seconds between two rounds that look for slow and idle connections."""


class Acceptor(BaseWSGIServer):  # type: ignore[misc]  # waitress has no types
    """Accepts the connections of a listening socket. Only the socket thread uses it."""

    _next_round = 0.0
    _paused_until = 0.0
    _told: dict[str, float]

    @property
    def share(self) -> int:
        """Most connections of one address, so that others have room whatever it does."""
        return max(1, int(self.adj.connection_limit) * 3 // 4)

    def readable(self) -> bool:
        """Whether to wait for connections. The loop calls this at least once a second."""
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _ROUND
            self.maintenance(now)
        return bool(self.accepting) and now >= self._paused_until

    def maintenance(self, now: float) -> None:
        """Close connections whose clients read nothing, or that have been idle for too long."""
        for channel in list(self.active_channels.values()):
            if channel.is_stalled(now):
                channel.handle_close()
            elif not channel.requests and channel.last_activity < now - self.adj.channel_timeout:
                channel.will_close = True

    def handle_accept(self) -> None:
        """Accept a connection. Close another one if there are too many, or refuse this one."""
        try:
            accepted = self.accept()
        except OSError as ex:
            if ex.errno in _NO_RESOURCES:
                self._pause(ex)
            return
        if accepted is None:  # the client has left already
            return
        sock, address = accepted
        group = group_of(address[0]) if isinstance(address, tuple) and address else "unix"
        if not self._make_room(group):
            self._refuse(sock)
            return
        with contextlib.suppress(OSError):  # macOS: the client has left already
            self.set_socket_options(sock)
        channel: Channel = self.channel_class(
            self, sock, self.fix_addr(address), self.adj, map=self._map
        )
        channel.group = group

    def _pause(self, ex: OSError) -> None:
        self._paused_until = time.monotonic() + _PAUSE
        self._warn("no connection can be accepted now: %s", ex.strerror or ex)
        victim = longest_waiting(self.active_channels.values(), time.monotonic())
        if victim is not None:
            victim.handle_close()

    def _make_room(self, group: str) -> bool:
        """Make room for one more connection of an address; return False if that is impossible."""
        channels, most = self.active_channels.values(), int(self.adj.connection_limit)
        if len(channels) < self.share:  # the usual case
            return True
        sizes = Counter(channel.group for channel in channels)
        if sizes[group] >= self.share:
            own = [channel for channel in channels if channel.group == group]
            return self._close_one(own)
        if len(channels) < most:
            return True
        sizes[group] += 1
        largest, _ = sizes.most_common(1)[0]
        crowd = [channel for channel in channels if channel.group == largest]
        return self._close_one(crowd) or self._close_one(channels)

    def _close_one(self, channels: Iterable[Channel]) -> bool:
        victim = longest_waiting(channels, time.monotonic())
        if victim is None:
            return False
        self._warn(
            "there are %d connections; the oldest idle and slow ones are closed for new ones",
            len(self.active_channels),
        )
        victim.handle_close()
        return True

    def _refuse(self, sock: socket.socket) -> None:
        """Tell the client that there are too many connections, if it can be told at once."""
        self._warn(
            "there are %d connections, and all have a request that is being answered; new ones "
            "are refused",
            len(self.active_channels),
        )
        with contextlib.suppress(OSError), sock:
            sock.setblocking(False)
            if self.adj.url_scheme == "http":
                sock.send(_REFUSAL)
                sock.shutdown(socket.SHUT_WR)

    def _warn(self, message: str, *values: object) -> None:
        """Log a warning, unless the same one was logged lately: clients cause them."""
        now = time.monotonic()
        told = self.__dict__.setdefault("_told", {})
        if message not in told or now - told[message] > _TOLD_AGAIN:
            told[message] = now
            log.warning(message, *values)


class TcpAcceptor(Acceptor, TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections over TCP."""


if hasattr(socket, "AF_UNIX"):
    from waitress.server import UnixWSGIServer

    class UnixAcceptor(Acceptor, UnixWSGIServer):  # type: ignore[misc]
        """Accepts connections to a Unix socket."""


def create_acceptor(
    app: Any, *, map: dict[int, Any], sockets: list[socket.socket], _dispatcher: Any, **options: Any
) -> Acceptor:
    """Return the acceptor of one listening socket; the same as waitress's ``create_server``.

    Args:
        app: the WSGI application.
        map: the sockets of the loop, by file descriptor.
        sockets: the listening socket.
        _dispatcher: gives requests to threads.
        options: waitress's adjustments.
    """
    (sock,) = sockets
    adjustments = Adjustments(sockets=sockets, **options)
    kind = TcpAcceptor if sock.family in (socket.AF_INET, socket.AF_INET6) else UnixAcceptor
    return kind(
        app,
        map,
        True,
        sock,
        dispatcher=_dispatcher,
        adj=adjustments,
        bind_socket=False,
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
    )


def longest_waiting(channels: Iterable[Channel], now: float) -> Channel | None:
    """Return the connection for which the server has waited longest; None if it waits for none."""
    waiting = [channel for channel in channels if channel.is_waiting(now)]
    return min(waiting, key=lambda channel: channel.since, default=None)


def _refusal() -> bytes:
    body = msgspec.json.encode(
        openai_error(http_problem(503, "The server has reached its maximum number of connections."))
    )
    added = "".join(f"{name}: {value}\r\n" for name, value in protective_headers((), secure=False))
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n{added}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_REFUSAL = _refusal()
"""The response to a connection for which there is no room."""
