"""The HTTP server: waitress with OffGrid's limits, connections and threads."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

from waitress.server import BaseWSGIServer
from waitress.wasyncore import close_all, dispatcher

from offgrid.api.http.access import Access
from offgrid.api.http.gate import places
from offgrid.api.http.middleware import AllowedOrigins
from offgrid.api.http.waitress.acceptor import create_acceptor
from offgrid.api.http.waitress.channel import Channel, Refused, channel_class
from offgrid.api.http.waitress.clock import use_monotonic_clock
from offgrid.api.http.waitress.lanes import Dispatcher
from offgrid.api.http.waitress.parser import FRAMING, Parser
from offgrid.api.http.waitress.peers import PeersChannel, PeersPort
from offgrid.api.http.waitress.tls import Certificate, TlsChannel
from offgrid.config import Commit, Settings
from offgrid.listening import BACKLOG

_SPARE_THREADS = 4
"""Threads beyond the places at the gate, for requests that get none and are refused."""
_MAX_CONNECTIONS = 2048
"""Large, since most are idle: clients that keep connections open must not lock out others."""


class HttpServer:
    """Serves a WSGI application on a listening socket.

    The constructor starts its threads; :meth:`run` runs its loop.

    Args:
        app: the application.
        sock: a listening socket.
        settings: checked settings.
        access: who may send a large body; None for everybody.
        certificate: makes it an HTTPS server.
        more: further listening sockets. Connections to all of them count together.
        peers: the listening socket for peers; its connections count too.

    Attributes:
        parser: its parser class.
    """

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        settings: Settings,
        access: Access | None = None,
        refused: Refused | None = None,
        certificate: Certificate | None = None,
        more: Sequence[socket.socket] = (),
        peers: PeersPort | None = None,
    ) -> None:
        use_monotonic_clock()
        max_body = settings.max_body_mb << 20
        self._sockets: dict[int, Any] = {}
        options: dict[str, Any] = {
            # Each request that may wait for a model has a place at the gate, a stream to its end.
            "_dispatcher": Dispatcher(places(settings) + _SPARE_THREADS),
            # The server notices that a client has left only if it reads ahead.
            "channel_request_lookahead": 1,
            # With select(), file descriptor 1024 would make the whole server fail.
            "asyncore_use_poll": True,
            "connection_limit": _connection_limit(),
            "backlog": BACKLOG,
            "channel_timeout": 30,
            "max_request_header_size": 16384,
            "max_request_body_size": max_body + FRAMING,
            "inbuf_overflow": 1 << 20,
            "outbuf_overflow": 1 << 20,
            "outbuf_high_watermark": 256 * 1024,
            "expose_tracebacks": False,
            "ident": None,
            "log_socket_errors": False,
            # The application removes them, after those of trusted proxies had their effect.
            "clear_untrusted_proxy_headers": False,
            "url_scheme": "http" if certificate is None else "https",
        }
        acceptors: list[BaseWSGIServer] = [
            create_acceptor(app, map=self._sockets, sockets=[one], **options)
            for one in (sock, *more)
        ]
        self._server = acceptors[0]
        base = Channel if certificate is None else TlsChannel
        channels = channel_class(settings, access, refused, base)
        if issubclass(channels, TlsChannel) and certificate is not None:
            channels.certificate = certificate
        for acceptor in acceptors:
            acceptor.channel_class = channels
        if peers is not None:
            options["url_scheme"] = "https"
            acceptors.append(
                create_acceptor(app, map=self._sockets, sockets=[peers.socket], **options)
            )
            # Each has proved who it is before it can send a body.
            acceptors[-1].channel_class = channel_class(settings, None, refused, PeersChannel)
            acceptors[-1].channel_class.certificate = peers.certificate
        for acceptor in acceptors:
            acceptor.active_channels = self._server.active_channels
        self._channel_classes = [acceptor.channel_class for acceptor in acceptors]
        self.parser: type[Parser] = channels.parser_class

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""
        origins = AllowedOrigins(settings.cors_origins)

        def commit() -> None:
            self._server.channel_class.origins = origins

        return commit

    def end_requests(self, is_peer: Callable[[str], bool]) -> None:
        """Close the connections on which a machine that is no peer any more gets an answer now.
        Later requests on its other connections are refused.

        Args:
            is_peer: whether the machine with a fingerprint is a peer.
        """
        running = [
            (channel, requests[0])
            for channel in self.channels
            if isinstance(channel, PeersChannel)
            and (requests := [*channel.requests])
            and (fingerprint := channel.fingerprint)
            and not is_peer(fingerprint)
        ]

        def close() -> None:
            for channel, request in running:
                if request in channel.requests:
                    channel.handle_close()

        if running:
            self.in_loop(close)

    def run(self) -> None:
        """Serve until :meth:`close`, or until a signal handler raises SystemExit."""
        self._server.run()

    def in_loop(self, function: Callable[[], None]) -> None:
        """Have the loop's thread call a function soon."""
        self._server.trigger.pull_trigger(function)

    def wake(self) -> None:
        """End the loop's wait for sockets, so that a signal handler runs."""
        self._server.pull_trigger()

    def stop_listening(self) -> None:
        """Refuse new connections, and close each open one after its current request.

        A client, or a proxy in front of several servers, notices that at once and can turn to
        another server.
        """
        for channels in self._channel_classes:
            channels.ending = True
        self._server.trigger.pull_trigger(self._close_acceptors)

    def _close_acceptors(self) -> None:
        """Close the listening sockets and all idle connections. Runs in the loop's thread."""
        for acceptor in [one for one in self._sockets.values() if one.accepting]:
            _accept_waiting(acceptor)
            dispatcher.close(acceptor)
        for channel in self.channels:
            channel.close_if_idle()

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


def _accept_waiting(acceptor: Any) -> None:
    """Accept the connections that the system has queued. It would reset them, and their clients
    would not know whether their requests were handled."""
    if not hasattr(select, "poll"):  # Windows
        return
    poll = select.poll()
    poll.register(acceptor.socket, select.POLLIN)
    for _ in range(2 * BACKLOG):
        if not poll.poll(0):
            return
        acceptor.handle_accept()


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
