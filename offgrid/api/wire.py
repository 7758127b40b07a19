"""Requests as they come from the socket: what waitress leaves open, lets pass or cuts off.

waitress closes a connection as soon as it has refused a request, also while the client is still
sending. What arrives at a closed socket makes the kernel reset the connection, and the reset
destroys the response before the client has read it. So a connection ends in three steps here: the
response, the end of our side, and then what the client still sends is read and thrown away for a
while (RFC 9112, section 9.6).

A message whose length can be understood in two ways is refused (RFC 9112, section 6.1): a proxy in
front of this server could take the other length, and the rest of the body for a request.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
)

from offgrid.api.errors import wire_error
from offgrid.api.lanes import Lane, lane_of
from offgrid.api.middleware import AllowedOrigins, cors_headers, new_request_id

FRAMING = 1 << 20
"""Bytes that a chunked body may have beyond the limit of bodies, for the sizes of its chunks."""
_QUIET_SECONDS = 5.0
"""How long a client may send nothing after its last response before the connection is closed."""
_LINGER_SECONDS = 30.0
"""How long it may go on sending."""
_MAX_DISCARDED = 1 << 28
"""Bytes of that, read and thrown away."""
_DISCARD = 1 << 16
_UNREAD = 1 << 16
"""Bytes of responses that a client has not taken, beyond which its next request waits."""
_MAX_BODIES = 1 << 29
"""Bytes of all bodies that are kept at once, or four times the limit of one, if that is more."""
_FREE = 1 << 16
"""Bytes of each body that are not counted, so that small requests pass when there is no room."""
_LONGEST_WAIT = 60.0
"""Seconds that any request may take to come, and those that it may take for the bytes of its body
at the least rate."""
_LEAST_RATE = 100_000
"""Bytes per second."""
_PACE_SECONDS = 10.0
"""How long the pace of a body is watched before the body can be ended in favour of another one."""
_MAX_LINE = 8192
"""Bytes of a chunk's size with its extensions."""
_MAX_TRAILER = 16384

_LENGTH = re.compile(rb"^content-length[ \t]*:", re.IGNORECASE | re.MULTILINE)
_CODING = re.compile(rb"^transfer-encoding[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
_TRAILER_FIELD = re.compile(rb"[\w!#$%&'*+.^`|~-]+:[\t -~\x80-\xff]*\r\n")


class ChunkedBody:
    """Takes in a chunked body, in time linear in its bytes, and keeps what it carries.

    waitress's own receiver looks at an unfinished line anew for each packet, and takes lines that
    other servers understand differently.

    Attributes:
        completed: whether the last chunk and the trailer are there.
        error: why it is refused, or None.
    """

    def __init__(self, buffer: Any) -> None:
        self.completed = False
        self.error: BadRequest | None = None
        self._buffer = buffer
        self._line = b""
        self._take_line = self._take_size
        self._left = 0
        """Bytes that the chunk still has."""
        self._trailer = 0

    def received(self, data: bytes) -> int:
        """Take in what came; return how many bytes of it belong to the body."""
        position = 0
        while position < len(data) and not self.completed and self.error is None:
            if self._left:
                piece = data[position : position + self._left]
                self._buffer.append(piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > _MAX_LINE:
                self.error = BadRequest("a line of the chunked body is too long")
            elif end >= 0:
                line, self._line = self._line, b""
                self._take_line(line)
        return position

    def _take_size(self, line: bytes) -> None:
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            self.error = BadRequest("the size of a chunk is invalid")
            return
        self._left = int(size[1], 16)
        self._take_line = self._take_end if self._left else self._take_trailer

    def _take_end(self, line: bytes) -> None:
        if line != b"\r\n":
            self.error = BadRequest("a chunk is longer than its size")
        self._take_line = self._take_size

    def _take_trailer(self, line: bytes) -> None:
        self._trailer += len(line)
        if line == b"\r\n":
            self.completed = True
        elif self._trailer > _MAX_TRAILER or not _TRAILER_FIELD.fullmatch(line):
            self.error = BadRequest("the trailer of the chunked body is invalid or too long")

    def __len__(self) -> int:
        return int(self._buffer.__len__())

    def getfile(self) -> Any:
        """The body as a file."""
        return self._buffer.getfile()

    def getbuf(self) -> Any:
        """What it is kept in."""
        return self._buffer


class Busy(Error):  # type: ignore[misc]  # waitress has no types
    """Too much of other bodies is kept already."""

    code = 503
    reason = "Service Unavailable"


class Late(Error):  # type: ignore[misc]
    """The request came too slowly."""

    code = 408
    reason = "Request Timeout"


def is_late(begun: float, received: int, now: float) -> bool:
    """Return whether an unfinished request has had its time.

    Args:
        begun: when its first byte came, in seconds.
        received: bytes of its body.
        now: the time, of the same clock.
    """
    return now - begun > _LONGEST_WAIT + received / _LEAST_RATE


class Pace:
    """How fast a request has come lately, and since when the server waits for it.

    Lately is since 10 to 20 seconds ago: a body that came fast and stands still then is slow.
    """

    def __init__(self, now: float) -> None:
        self.restart(now, 0)

    def restart(self, now: float, received: int) -> None:
        """Count from now on: the client could not send before."""
        self.begun = now
        self._older = self._mark = (now, received)

    def rate(self, now: float, received: int) -> float | None:
        """Return bytes per second; None for a request that is too new to tell."""
        if now - self.begun < _PACE_SECONDS:
            return None
        if now - self._mark[0] >= _PACE_SECONDS:
            self._older, self._mark = self._mark, (now, received)
        return (received - self._older[1]) / (now - self._older[0])


class Budget:
    """Bytes that the bodies of all connections may have together, in memory and temporary files.

    Without it, clients that never finish theirs fill the disk.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()
        self.unfinished: weakref.WeakSet[Parser] = weakref.WeakSet()
        """Requests whose counted bodies are still coming. For the thread that reads sockets."""

    def take(self, size: int) -> bool:
        """Count bytes that are there; negative ones are gone. Return whether it was too much."""
        with self._lock:
            self._left -= size
            return self._left < 0

    def slowest(self, now: float) -> Parser | None:
        """Return the slowest of the unfinished requests that are old enough; None without one."""
        rates = [(request.rate(now), request) for request in self.unfinished]
        old = [(rate, request) for rate, request in rates if rate is not None]
        return min(old, key=lambda pair: pair[0])[1] if old else None


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """Refuses at once, in one way, and without another word of the client."""

    # A request may be refused before these are known.
    command = "GET"
    path = ""
    completed = False
    error: Error | None = None
    body_rcv: Any = None
    budget = Budget(_MAX_BODIES)
    clock: Callable[[], float] = staticmethod(time.monotonic)
    _counted = 0

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._pace = Pace(self.clock())

    def received(self, data: bytes) -> int:
        """Take in a part of the request; what comes after a refused one is no request."""
        if self.error is not None:  # it was ended in favour of another one
            self.completed = True
            return len(data)
        try:
            consumed = int(super().received(data))
        except ValueError:  # an address or a number that Python does not parse
            self.error = BadRequest("the URL or the content length is invalid")
            consumed = len(data)
        if self.error is None and self.content_length > self.max_body:
            self.error = RequestEntityTooLarge("")
        self._count()
        if self.error is not None:
            self.completed = True
            consumed = len(data)
        if self.completed:
            self.budget.unfinished.discard(self)
            # waitress would ask for the body of a request that has none or was refused.
            self.expect_continue = False
        return consumed

    def is_late(self) -> bool:
        """Whether the client has had its time to send this."""
        return is_late(self._pace.begun, self.body_bytes_received, self.clock())

    def wait(self) -> None:
        """Count its time anew: the client cannot send, as the server reads nothing of it."""
        self._pace.restart(self.clock(), self.body_bytes_received)

    def rate(self, now: float) -> float | None:
        """Return bytes of the body per second; None for a request that is too new to tell."""
        return self._pace.rate(now, self.body_bytes_received)

    def end(self, error: Error) -> None:
        """Refuse the rest of it, and drop what is there."""
        self.error = error
        self.expect_continue = False
        self.budget.unfinished.discard(self)
        self.close()
        self.body_rcv = None

    def _count(self) -> None:
        more = max(0, self.body_bytes_received - _FREE) - self._counted
        if not more:
            return
        self._counted += more
        self.budget.unfinished.add(self)
        now = self.clock()
        self.rate(now)
        if self.budget.take(more) and self.error is None and not self.completed:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """End the slowest bodies in favour of this one, or this one."""
        while self.budget.take(0):
            slowest = self.budget.slowest(now)
            if slowest is None or slowest is self:
                self.end(Busy("the bodies of other requests use all the memory for bodies"))
                return
            slowest.end(Busy("this body arrived slowly, and other requests needed its memory"))

    def close(self) -> None:
        """Drop the body."""
        self.budget.take(-self._counted)
        self._counted = self.body_bytes_received = 0
        super().close()

    def __del__(self) -> None:
        # waitress does not close what it drops unfinished.
        self.budget.take(-self._counted)

    @property
    def max_body(self) -> int:
        """Bytes that a body may have."""
        return int(self.adj.max_request_body_size) - FRAMING

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the first line and the headers.

        Raises:
            ParsingError: they are wrong, or tell two lengths.
        """
        codings = [value.strip(b" \t").lower() for value in _CODING.findall(header_plus)]
        if codings and _LENGTH.search(header_plus):
            raise ParsingError("a request must not have both Content-Length and Transfer-Encoding")
        if b"\r\n " in header_plus or b"\r\n\t" in header_plus:
            raise ParsingError("a header must be one line")
        super().parse_header(header_plus)
        if codings and (self.version != "1.1" or codings != [b"chunked"]):
            raise ParsingError("Transfer-Encoding must be chunked, once, and in HTTP/1.1")
        if self.chunked:
            self.body_rcv = ChunkedBody(OverflowableBuffer(self.adj.inbuf_overflow))


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
        body = wire_error(error.code, message)
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
    budget = Budget(max(_MAX_BODIES, 4 * max_body))
    parser = type("OffgridParser", (Parser,), {"budget": budget})
    fields = {"origins": AllowedOrigins(origins), "parser_class": parser}
    return type("OffgridChannel", (Channel,), fields)
