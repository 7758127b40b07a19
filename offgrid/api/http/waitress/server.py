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
"""Connections that the system accepts before the server does."""
_SPARE_THREADS = 4
"""For the answers that say that no place is free."""
_MAX_CONNECTIONS = 2048
"""Most of them idle: clients that keep theirs open must not shut others out."""


class HttpServer:
    """Serves a WSGI application on a listening socket.

    Its threads start with the constructor, its loop with :meth:`run`.

    Attributes:
        parser: the class of its requests.
    """

    def __init__(self, app: Any, sock: socket.socket, settings: Settings) -> None:
        max_body = settings.max_body_mb << 20
        self._sockets: dict[int, Any] = {}
        self._server: BaseWSGIServer = waitress.create_server(
            app,
            map=self._sockets,
            sockets=[sock],
            # Whatever may wait for a model passes the gate, a stream until its end.
            _dispatcher=Dispatcher(places(settings) + _SPARE_THREADS),
            # Reading ahead is how a client's leaving is noticed.
            channel_request_lookahead=1,
            # select() fails for the whole server at file descriptor 1024.
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
        """Serve until :meth:`close`, or until a signal's handler raises SystemExit."""
        self._server.run()

    def wake(self) -> None:
        """End the loop's wait for sockets, so that a signal's handler runs."""
        self._server.pull_trigger()

    def close(self) -> None:
        """End the threads, and have the loop end: not at once, it closes its sockets itself."""
        # The threads first: one of them could still write to a descriptor that is closed here and
        # by then belongs to somebody else. The loop closes its own for the same reason.
        self._server.task_dispatcher.shutdown()
        self._server.trigger.pull_trigger(lambda: close_all(self._sockets, ignore_all=True))

    @property
    def channels(self) -> list[Channel]:
        """The connections as they are now."""
        return list(self._server.active_channels.values())

    @property
    def unsent(self) -> bool:
        """Whether a request is unanswered, or a part of an answer has not left."""
        return any(channel.requests or channel.total_outbufs_len for channel in self.channels)


def _connection_limit() -> int:
    """Far fewer than file descriptors: without one, accepting fails in an endless loop."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(16, min(_MAX_CONNECTIONS, (soft - 128) // 2))
