"""A connection: when its requests are answered, and how it ends.

waitress closes a connection as soon as it has refused a request, also while the client is still
sending. What arrives at a closed socket makes the kernel reset the connection, and the reset
destroys the response before the client has read it. So a connection ends in three steps here: the
response, the end of our side, and then what the client still sends is read and thrown away for a
while (RFC 9112, section 9.6).
"""

from __future__ import annotations

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
"""How long it may go on sending."""
_MAX_DISCARDED = 1 << 28
"""Bytes of that, read and thrown away."""
_DISCARD = 1 << 16
_UNREAD = 1 << 16
"""Bytes of responses that a client has not taken, beyond which its next request waits."""


class _WireError(ErrorTask):  # type: ignore[misc]
    """What is refused before the application sees it, in the application's form."""

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
        """Compute and write it; only meanwhile may the thread wait for the client to read.

        Only where there are many: elsewhere the response is kept as a whole.
        """
        self.channel.answering = self.channel.lane() is Lane.WAITING
        try:
            super().service()
        finally:
            self.channel.answering = False


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that ends so that the client can read the last response.

    Between two requests of a connection no thread waits for its client: clients that send many at
    once and read none of the responses would hold all threads.
    """

    task_class = _Task
    error_task_class = _WireError
    parser_class = Parser
    request: Parser | None = None
    origins = AllowedOrigins()
    """Whose pages may read what is refused here; :func:`channel_class` sets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._lingering = False
        """Whether all is said, and the rest of what the client sends is thrown away."""
        self._latest_end = 0.0
        self._quiet_end = 0.0
        self._discarded = 0
        self.answering = False
        """Whether a thread works on a response."""
        self._postponed = False
        """Whether the next request waits until the client has read of the responses before it."""
        super().__init__(*arguments, **options)

    def lane(self) -> Lane:
        """Return whose threads answer the next request."""
        request = self.requests[0]
        return lane_of(request.command, request.path, request.error is not None)

    def service(self) -> None:
        """Answer the next request, in a thread; later if too much is unread of those before."""
        with self.requests_lock:
            if self.connected and self._is_unread():
                self._postponed = True
                self.server.pull_trigger()
                return
        super().service()

    def _is_unread(self) -> bool:
        return bool(self.total_outbufs_len > _UNREAD)

    def _flush_outbufs_below_high_watermark(self) -> None:
        if self.answering:
            super()._flush_outbufs_below_high_watermark()

    def _go_on(self) -> None:
        """Have a postponed request answered if the client has read enough."""
        with self.requests_lock:
            if self._postponed and not self._is_unread():
                self._postponed = False
                self.server.add_task(self)

    def handle_close(self) -> None:
        """Close the connection, and drop the requests that no thread will come to."""
        super().handle_close()
        if not self._postponed:  # where there is no request, the lock may be ours already
            return
        with self.requests_lock:
            if self._postponed:
                self._postponed = False
                for request in self.requests:
                    request.close()
                self.requests.clear()

    def received(self, data: bytes) -> bool:
        """Take in a part of a request; nothing after one that was refused."""
        with self.requests_lock:
            if self.requests and self.requests[-1].error is not None:
                return False
        return bool(super().received(data))

    def readable(self) -> bool:
        """Whether to wait for the client's bytes. The server asks at least once a second."""
        if not self._lingering:
            readable = bool(super().readable())
            if self.request is not None:
                self._watch(self.request, readable)
            return readable
        if time.monotonic() >= min(self._quiet_end, self._latest_end):
            self.will_close = True
        return not self.will_close

    def _watch(self, request: Parser, readable: bool) -> None:
        """Refuse an unfinished request that is late, or was ended in favour of another one."""
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
        """Whether there is something to write, or the connection is to be closed."""
        return bool(self.will_close if self._lingering else super().writable())

    def handle_write(self) -> None:
        """Write what there is; after the last response, end our side.

        The client may have closed the connection in the same moment.
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
        self._lingering = True
        self._quiet_end, self._latest_end = now + _QUIET_SECONDS, now + _LINGER_SECONDS

    def handle_read(self) -> None:
        """Read what the client sends."""
        if not self._lingering:
            super().handle_read()
            return
        try:
            data = self.recv(_DISCARD)  # closes the connection when the client has
        except OSError:
            self.handle_close()
            return
        self._discarded += len(data)
        self._quiet_end = time.monotonic() + _QUIET_SECONDS
        if self._discarded > _MAX_DISCARDED:
            self.handle_close()

    def handle_expt(self) -> None:
        """Close a connection with urgent data: HTTP has none, and it would wake us for ever."""
        self.handle_close()


def channel_class(origins: Iterable[str], max_body: int) -> type[Channel]:
    """Return the class of the connections of one server.

    Args:
        origins: those whose pages may call it.
        max_body: bytes that a body may have.
    """
    fields = {"origins": AllowedOrigins(origins), "parser_class": parser_class(max_body)}
    return type("OffgridChannel", (Channel,), fields)
