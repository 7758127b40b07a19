"""The HTTP server: waitress with OffGrid's limits, connections and threads."""

from __future__ import annotations

import socket
from typing import Any

import waitress
from waitress.server import BaseWSGIServer
from waitress.wasyncore import close_all

from offgrid.api.http.gate import places
from offgrid.api.http.waitress.channel import Channel, channel_class
from offgrid.api.http.waitress.lanes import Dispatcher
from offgrid.api.http.waitress.parser import FRAMING, Parser
from offgrid.config import Settings

BACKLOG = 128
"""Connections that the system queues until the server accepts them."""
_SPARE_THREADS = 4
"""Threads beyond the places at the gate, for requests that get none and are refused."""
_MAX_CONNECTIONS = 2048
"""Large, since most are idle: clients that keep connections open must not lock out others."""


class HttpServer:
    """Serves a WSGI application on a listening socket.

    The constructor starts its threads; :meth:`run` runs its loop.

    Attributes:
        parser: its parser class.
    """

    def __init__(self, app: Any, sock: socket.socket, settings: Settings) -> None:
        max_body = settings.max_body_mb << 20
        self._sockets: dict[int, Any] = {}
        self._server: BaseWSGIServer = waitress.create_server(
            app,
            map=self._sockets,
            sockets=[sock],
            # Each request that may wait for a model has a place at the gate, a stream to its end.
            _dispatcher=Dispatcher(places(settings) + _SPARE_THREADS),
            # The server notices that a client has left only if it reads ahead.
            channel_request_lookahead=1,
            # With select(), file descriptor 1024 would make the whole server fail.
            asyncore_use_poll=True,
            connection_limit=_connection_limit(),
            backlog=BACKLOG,
            cleanup_interval=5,
            channel_timeout=30,
            max_request_header_size=16384,
            max_request_body_size=max_body + FRAMING,
            inbuf_overflow=1 << 20,
            outbuf_overflow=1 << 20,
            outbuf_high_watermark=256 * 1024,
            expose_tracebacks=False,
            ident=None,
            log_socket_errors=False,
            clear_untrusted_proxy_headers=True,
        )
        channels = channel_class(settings.cors_origins, max_body)
        self._server.channel_class = channels
        self.parser: type[Parser] = channels.parser_class

    def run(self) -> None:
        """Serve until :meth:`close`, or until a signal handler raises SystemExit."""
        self._server.run()

    def wake(self) -> None:
        """End the loop's wait for sockets, so that a signal handler runs."""
        self._server.pull_trigger()

    def close(self) -> None:
        """End the threads, and make the loop close its sockets and end; does not wait for that."""
        # End the threads first: one of them could otherwise write to a descriptor that was closed
        # here and has been reused since. The loop closes its sockets itself for the same reason.
        self._server.task_dispatcher.shutdown()
        self._server.trigger.pull_trigger(lambda: close_all(self._sockets, ignore_all=True))

    @property
    def channels(self) -> list[Channel]:
        """The connections as they are now."""
        return list(self._server.active_channels.values())

    @property
    def unsent(self) -> bool:
        """Whether a request is unanswered, or a part of an answer is not sent yet."""
        return any(channel.requests or channel.total_outbufs_len for channel in self.channels)


def _connection_limit() -> int:
    """Return far fewer than there are file descriptors: without one, accept fails endlessly."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, (soft - 128) // 2))
