"""A connection: when its requests are answered, and how it ends.

waitress closes a connection as soon as it has refused a request, even while the client is still
sending. Bytes that arrive at a closed socket make the kernel reset the connection, and the reset
destroys the response before the client has read it. So a connection ends here in three steps: send
the response, end our side, and then read and discard the client's remaining bytes for a while
(RFC 9112, section 9.6).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from offgrid.api.http.errors import http_error_body
from offgrid.api.http.middleware import AllowedOrigins, cors_headers, new_request_id
from offgrid.api.http.waitress.lanes import Lane, lane_of
from offgrid.api.http.waitress.parser import Late, Parser, parser_class

_QUIET_SECONDS = 5.0
"""How long a client may send nothing after its last response before the connection is closed."""
_LINGER_SECONDS = 30.0
"""How long the client may go on sending after its last response."""
_MAX_DISCARDED = 1 << 28
"""How many bytes it may send in that time; they are read and discarded."""
_DISCARD = 1 << 16
_UNREAD = 1 << 16
"""Unsent bytes of a client's responses beyond which its next request waits."""


class _WireError(ErrorTask):  # type: ignore[misc]
    """Refuses a request before the application sees it, with the application's error object."""

    def execute(self) -> None:
        """Write the response."""
        error = self.request.error
        message = f"{error.reason}: {str(error.body).rstrip('.')}."
        if isinstance(error, RequestEntityTooLarge):
            message = f"The request body is larger than {self.request.max_body} bytes."
        elif isinstance(error, RequestHeaderFieldsTooLarge):
            limit = self.channel.adj.max_request_header_size
            message = f"The request's headers are larger than {limit} bytes."
        body = msgspec.json.encode(http_error_body(error.code, message))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.append(("x-request-id", new_request_id()))
        origin = self.request.headers.get("ORIGIN")
        if error.code == 503:
            self.response_headers.append(("Retry-After", "5"))
        if origin is not None and origin in self.channel.origins:
            self.response_headers += cors_headers(origin)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Task(WSGITask):  # type: ignore[misc]
    """The application's answer to one request."""

    def service(self) -> None:
        """Compute and write the answer; only meanwhile may the thread wait for the client to read.

        Only threads of the lane for waiting requests may, since there are many. In the other lanes
        the response is kept as a whole.
        """
        self.channel.answering = self.channel.lane() is Lane.WAITING
        try:
            super().service()
        finally:
            self.channel.answering = False


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that ends only after the client has had time to read the last response.

    No thread waits for a client between two requests of its connection: clients that send many
    requests at once and read no response would otherwise occupy all threads.
    """

    task_class = _Task
    error_task_class = _WireError
    parser_class = Parser
    request: Parser | None = None
    origins = AllowedOrigins()
    """Origins whose pages may read the errors sent here; :func:`channel_class` sets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.lingering = False
        """Whether the last response was sent; the client's remaining bytes are discarded."""
        self._latest_end = 0.0
        self._quiet_end = 0.0
        self._discarded = 0
        self.answering = False
        """Whether a thread works on a response and may wait for the client to read."""
        self._postponed = False
        """Whether the next request waits until the client has read enough of earlier responses."""
        super().__init__(*arguments, **options)

    def lane(self) -> Lane:
        """Return the lane whose threads answer the next request."""
        request = self.requests[0]
        return lane_of(request.command, request.path, request.error is not None)

    def service(self) -> None:
        """Answer the next request; postpone it if the client has not read earlier responses."""
        with self.requests_lock:
            if self.connected and self._is_unread():
                self._postponed = True
                self.server.pull_trigger()
                return
        super().service()

    def write_soon(self, data: Any) -> int:
        """Send bytes at once if none are kept; keep those that the client has no room for.

        waitress would first put them into a buffer and then take them out again, which costs more
        than sending them: most writes are one token of a stream.

        Raises:
            ClientDisconnected: the client has left.
        """
        if self.total_outbufs_len or not isinstance(data, bytes) or not self.connected:
            return int(super().write_soon(data))
        with self.outbuf_lock:
            sent = 0
            if self.connected and not self.total_outbufs_len:
                # On an error, waitress tries again below, and closes the connection.
                with contextlib.suppress(OSError):
                    sent = self.socket.send(data)
            if sent:
                self.last_activity = time.time()
            if sent < len(data):
                super().write_soon(data[sent:])
        return len(data)

    def _is_unread(self) -> bool:
        return bool(self.total_outbufs_len > _UNREAD)

    def _flush_outbufs_below_high_watermark(self) -> None:
        if self.answering:
            super()._flush_outbufs_below_high_watermark()

    def _go_on(self) -> None:
        """Queue a postponed request again if the client has read enough."""
        with self.requests_lock:
            if self._postponed and not self._is_unread():
                self._postponed = False
                self.server.add_task(self)

    def handle_close(self) -> None:
        """Close the connection, and drop postponed requests, which no thread will answer."""
        super().handle_close()
        if not self._postponed:  # without a postponed request this thread may hold the lock already
            return
        with self.requests_lock:
            if self._postponed:
                self._postponed = False
                for request in self.requests:
                    request.close()
                self.requests.clear()

    def received(self, data: bytes) -> bool:
        """Parse a part of a request; ignore all bytes after a refused one."""
        with self.requests_lock:
            if self.requests and self.requests[-1].error is not None:
                return False
        return bool(super().received(data))

    def readable(self) -> bool:
        """Whether to wait for the client's bytes. The server calls this at least once a second."""
        if not self.lingering:
            readable = bool(super().readable())
            if self.request is not None:
                self._watch(self.request, readable)
            return readable
        if time.monotonic() >= min(self._quiet_end, self._latest_end):
            self.will_close = True
        return not self.will_close

    def _watch(self, request: Parser, readable: bool) -> None:
        """Refuse an unfinished request that is late, or was ended to make room for another one."""
        if not readable:
            request.wait()
        elif request.error is None and request.is_late():
            request.end(Late("the request arrived too slowly; send it again"))
        if request.error is None:
            return
        with self.requests_lock:
            if self.will_close or self.close_when_flushed:
                return
            request.completed = True
            self.request = None
            self.sent_continue = False
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def writable(self) -> bool:
        """Whether there are bytes to write, or the connection is to be closed."""
        return bool(self.will_close if self.lingering else super().writable())

    def handle_write(self) -> None:
        """Write unsent bytes; after the last response, end our side.

        The client may close the connection at the same moment.
        """
        if self.will_close or not self.close_when_flushed:
            super().handle_write()
            self._go_on()
            return
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif self.connected and not self.total_outbufs_len:
            self._linger()

    def _linger(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()
            return
        now = time.monotonic()
        self.lingering = True
        self._quiet_end, self._latest_end = now + _QUIET_SECONDS, now + _LINGER_SECONDS

    def handle_read(self) -> None:
        """Read what the client sends."""
        if not self.lingering:
            super().handle_read()
            return
        try:
            data = self.recv(_DISCARD)  # closes the connection if the client has closed it
        except OSError:
            self.handle_close()
            return
        self._discarded += len(data)
        self._quiet_end = time.monotonic() + _QUIET_SECONDS
        if self._discarded > _MAX_DISCARDED:
            self.handle_close()

    def handle_expt(self) -> None:
        """Close a connection with urgent data: HTTP has none, and poll would report it for ever."""
        self.handle_close()


def channel_class(origins: Iterable[str], max_body: int) -> type[Channel]:
    """Return the class of one server's connections.

    Args:
        origins: origins whose pages may call it.
        max_body: maximum size of a body in bytes.
    """
    fields = {"origins": AllowedOrigins(origins), "parser_class": parser_class(max_body)}
    return type("OffgridChannel", (Channel,), fields)
