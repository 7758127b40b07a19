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
from collections.abc import Callable
from typing import Any

import falcon
import msgspec
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from offgrid.api.http.access import Access
from offgrid.api.http.error_bodies import Problem, error_shape, speaks_anthropic
from offgrid.api.http.error_handlers import http_problem, refusal_headers, request_problem
from offgrid.api.http.forwarding import Forwarding
from offgrid.api.http.headers import protective_headers
from offgrid.api.http.middleware import AllowedOrigins, cors_headers
from offgrid.api.http.request_id import new_request_id
from offgrid.api.http.waitress.lanes import Lane, lane_of
from offgrid.api.http.waitress.parser import Late, NotAdmitted, Parser, parser_class
from offgrid.config import Settings
from offgrid.config.network import UNIX
from offgrid.errors import Overloaded, RequestError

_QUIET_SECONDS = 5.0
"""How long a client may send nothing after its last response before the connection is closed."""
_LINGER_SECONDS = 30.0
"""How long the client may go on sending after its last response."""
_MAX_DISCARDED = 1 << 28
"""How many bytes it may send in that time; they are read and discarded."""
_DISCARD = 1 << 16
_STALLED_SECONDS = 20.0
"""How long a client may read nothing while bytes wait for it."""
_READING_SECONDS = 60.0
"""How long a client's reading is measured."""
_LEAST_READ = 1 << 14
"""Bytes that it must read in that time. TCP reports reading in large pieces, so a client that reads
a kilobyte per second may seem to read nothing for a while."""
_UNMOVED_SECONDS = 5.0
"""How long a client must have read nothing before its connection can be closed for another one."""
_GOOD_RATE = 100_000
"""Bytes per second of a body that is not closed for another connection."""
_UNREAD = 1 << 16
"""Unsent bytes of a client's responses beyond which its next request waits."""


Refused = Callable[[str, str, int, str, str], str]
"""Gets method, path, status, code and address of a refused request; returns its id."""


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
        problem = http_problem(error.code, message)
        self.status = f"{error.code} {error.reason}"
        if isinstance(error, NotAdmitted):
            problem = self._without_key()
        path = self.request.path or ""
        self.response_headers.append(("Content-Type", "application/json"))
        id = self.channel.refused(
            self.request.command or "", path, problem.status,
            problem.code or f"http_{problem.status}", self._address(),
        )  # fmt: skip
        self.response_headers.append(("x-request-id", id))
        version = self.request.headers.get("ANTHROPIC_VERSION")
        if speaks_anthropic(path, version):
            self.response_headers.append(("request-id", id))
        body = msgspec.json.encode(error_shape(path, version)(problem._replace(request_id=id)))
        names = [name for name, _ in self.response_headers]
        self.response_headers += protective_headers(names, secure=self.channel.secure)
        origin = self.request.headers.get("ORIGIN")
        if error.code == 503:
            self.response_headers.append(("Retry-After", "5"))
        if origin is not None and origin in self.channel.origins:
            self.response_headers += cors_headers(origin)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)

    def _without_key(self) -> Problem:
        """Set the status line and the headers of a refusal for want of a key; return what is
        wrong."""
        try:
            self.request.access.admit(self.request.environ, self._address())
        except RequestError as ex:
            refusal = ex
        else:  # the keys have changed in this moment
            refusal = Overloaded("The keys have just changed; send the request again.")
        self.status = falcon.code_to_http_status(refusal.status)
        self.response_headers += [*refusal_headers(refusal).items()]
        return request_problem(refusal)

    def _address(self) -> str:
        """Return the client's IP address; ``unix`` for one of a Unix socket."""
        address = self.channel.addr
        connected = str(address[0]) if isinstance(address, tuple) and address else UNIX
        forwarding: Forwarding = self.channel.forwarding
        return forwarding.address({**self.request.environ, "REMOTE_ADDR": connected})


class _Task(WSGITask):  # type: ignore[misc]
    """The application's answer to one request."""

    _keeps_open = False
    """Whether waitress is not to close the connection now."""

    def service(self) -> None:
        """Compute and write the answer; only meanwhile may the thread wait for the client to read.

        Only threads of the lane for waiting requests may, since there are many, and those of the
        lane for files. In the other lanes the response is kept as a whole.
        """
        self.channel.answering = self.channel.lane() in (Lane.WAITING, Lane.FILES)
        if self.channel.ending:
            self.set_close_on_finish()
        try:
            super().service()
        finally:
            self.channel.answering = False

    def get_environment(self) -> dict[str, Any]:
        """Return the request's environment, with what is known about its connection."""
        return {**super().get_environment(), **self.channel.known()}

    def build_response_header(self) -> bytes:
        """Return the head of the response.

        waitress closes the connection after each response without a Content-Length. Those of the
        statuses 204 and 304 have none, and end with their head (RFC 9112, section 6.3). A browser
        gets a 304 for each file of the page that it has already.
        """
        closes = self.request.headers.get("CONNECTION", "").lower() == "close"
        open_after = self.channel.reused or not self.has_body
        self._keeps_open = self.version == "1.1" and open_after and not closes
        try:
            return bytes(super().build_response_header())
        finally:
            self._keeps_open = False

    def set_close_on_finish(self) -> None:
        """Close the connection after this response."""
        if not self._keeps_open:
            super().set_close_on_finish()


class Reading:
    """How fast a client reads what waits for it.

    Attributes:
        sent: bytes that were kept for the client and then sent.
    """

    def __init__(self, now: float) -> None:
        self.sent = 0
        self._mark = self._moved = (now, 0)

    def unmoved(self, now: float) -> float:
        """Return the seconds since bytes were last seen to be sent."""
        return now - self._moved[0]

    def is_stalled(self, now: float, unsent: int) -> bool:
        """Return whether a client for which ``unsent`` bytes wait reads too slowly."""
        if not unsent:
            self._mark = self._moved = (now, self.sent)
            return False
        if self.sent != self._moved[1]:
            self._moved = (now, self.sent)
        if self.unmoved(now) >= _STALLED_SECONDS:
            return True
        if now - self._mark[0] < _READING_SECONDS:
            return False
        slow = self.sent - self._mark[1] < _LEAST_READ
        self._mark = (now, self.sent)
        return slow


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
    forwarding: Forwarding
    """Finds the clients of trusted proxies; :func:`channel_class` sets it."""
    refused: Refused = staticmethod(lambda *request: new_request_id())
    """Hears of each request that is refused here; :func:`channel_class` sets it."""
    reused = False
    """Whether the connection stays open also after a response without a Content-Length. Its client
    must read the last chunk before it sends the next request."""
    ending = False
    """Whether the server ends: connections are closed after their current request."""

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
        self.group = ""
        """The machine or household that it comes from; the acceptor sets it."""
        self.since = time.monotonic()
        """When it was opened, or its last response was complete."""
        self._reading = Reading(self.since)
        self._listeners: list[Callable[[], None]] = []
        super().__init__(*arguments, **options)
        if arguments[2][0] == "localhost":  # waitress's word for a Unix socket
            self.addr: tuple[str, int] = (UNIX, 0)

    @property
    def secure(self) -> bool:
        """Whether what is sent is encrypted on the network."""
        return False

    def known(self) -> dict[str, Any]:
        """Return what the environment of each of its requests says in addition."""
        return {}

    def is_waiting(self, now: float) -> bool:
        """Whether the server waits for the client, so that the connection may be closed for another
        one. A body that arrives fast is not to be interrupted."""
        if self.total_outbufs_len:
            return self._reading.unmoved(now) >= _UNMOVED_SECONDS
        if self.requests:
            return False
        request = self.request
        return request is None or (request.rate(now) or 0.0) < _GOOD_RATE

    def is_stalled(self, now: float) -> bool:
        """Whether the client reads so slowly that its connection must be closed. To be called about
        once a second."""
        return self._reading.is_stalled(now, self.total_outbufs_len)

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send bytes that were kept; return how many."""
        sent = int(super().send(data, do_close))
        self._reading.sent += sent
        return sent

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
        self.since = time.monotonic()

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
                self.last_activity = time.monotonic()  # as waitress does here, see the module clock
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

    def when_closed(self, listener: Callable[[], None]) -> Callable[[], None]:
        """See :func:`~offgrid.api.http.waitress.environ.when_gone`."""
        self._listeners.append(listener)
        if not self.connected:
            listener()
        return lambda: self._listeners.remove(listener)

    def handle_close(self) -> None:
        """Close the connection, and drop postponed requests, which no thread will answer."""
        super().handle_close()
        for listener in [*self._listeners]:
            listener()
        if not self._postponed:  # without a postponed request this thread may hold the lock already
            return
        with self.requests_lock:
            if self._postponed:
                self._postponed = False
                for request in self.requests:
                    request.close()
                self.requests.clear()

    def close_if_idle(self) -> None:
        """Close a connection between two requests. The loop's thread calls this."""
        with self.requests_lock:
            if not (self.requests or self.request is not None or self.total_outbufs_len):
                self.will_close = True

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


def channel_class(
    settings: Settings,
    access: Access | None = None,
    refused: Refused | None = None,
    base: type[Channel] = Channel,
) -> type[Channel]:
    """Return the class of one server's connections.

    Args:
        settings: the origins whose pages may call it, the trusted proxies, and the maximum size of
            a body.
        access: who may send a large body; None for everybody.
        refused: hears of each request that is refused before the application sees it.
        base: what the connections are.
    """
    fields: dict[str, Any] = {
        "origins": AllowedOrigins(settings.cors_origins),
        "forwarding": Forwarding(settings),
        "parser_class": parser_class(settings.max_body_mb << 20, access),
    }
    if refused is not None:
        fields["refused"] = staticmethod(refused)
    return type("OffgridChannel", (base,), fields)
