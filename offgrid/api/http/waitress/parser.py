"""The request parser: stricter than waitress's, with limits for slow and large requests.

It refuses a message whose length is ambiguous (RFC 9112, section 6.1): a proxy in front of this
server could use the other length, and treat the rest of the body as another request.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from offgrid.api.http.access import Access
from offgrid.api.http.waitress.chunks import ChunkedBody

FRAMING = 1 << 20
"""Bytes that a chunked body may have beyond the limit of bodies, for the sizes of its chunks."""
_CHUNK_SIZES = 1 << 12
"""The same for bodies with a limit of their connection."""
_MAX_BODIES = 1 << 29
"""Bytes of all bodies kept at once; or four times the limit of one body, if that is more."""
_FREE = 1 << 16
"""Bytes of each body that are not counted, so that small requests pass when there is no room."""
_HEAD_SECONDS = 10.0
"""Seconds in which the first line and the headers of a request may arrive."""
_BODY_SECONDS = 30.0
"""Seconds in which any whole request may arrive. To these is added the time that the bytes of its
body take at the least rate."""
_LEAST_RATE = 10_000
"""Bytes per second: bodies over slow radio links arrive, however large they are."""
_PACE_SECONDS = 10.0
"""How long a body's rate is measured before the body can be ended to make room for another one."""

_LENGTH = re.compile(rb"^content-length[ \t]*:", re.IGNORECASE | re.MULTILINE)
_CODING = re.compile(rb"^transfer-encoding[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class Busy(Error):  # type: ignore[misc]  # waitress has no types
    """The bodies of other requests use all the memory for bodies."""

    code = 503
    reason = "Service Unavailable"


class Late(Error):  # type: ignore[misc]
    """The request arrived too slowly."""

    code = 408
    reason = "Request Timeout"


class NotAdmitted(Error):  # type: ignore[misc]
    """A large body comes without a valid key. :meth:`Access.admit` makes the answer."""

    code = 401
    reason = "Unauthorized"


def is_late(begun: float, received: int | None, now: float) -> bool:
    """Return whether an unfinished request has used up its time.

    Args:
        begun: when its first byte arrived, in seconds.
        received: how many bytes of its body have arrived; None until its headers are complete.
        now: the current time of the same clock.
    """
    if received is None:
        return now - begun > _HEAD_SECONDS
    return now - begun > _BODY_SECONDS + received / _LEAST_RATE


class Pace:
    """The recent rate of a request, and the time since which the server waits for it.

    The rate is that of the last 10 to 20 seconds: a body that arrived fast at first and then
    stalled counts as slow.
    """

    def __init__(self, now: float) -> None:
        self.restart(now, 0)

    def restart(self, now: float, received: int) -> None:
        """Measure from now on: the client could not send before."""
        self.begun = now
        self._older = self._mark = (now, received)

    def rate(self, now: float, received: int) -> float | None:
        """Return bytes per second; None for a request that is too new to measure."""
        if now - self.begun < _PACE_SECONDS:
            return None
        if now - self._mark[0] >= _PACE_SECONDS:
            self._older, self._mark = self._mark, (now, received)
        return (received - self._older[1]) / (now - self._older[0])


class Budget:
    """Bytes that the bodies of all connections may have together, in memory and temporary files.

    Without it, clients that never finish their bodies would fill the disk.

    Args:
        limit: the number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = limit
        # Reentrant: a request that was dropped gives its bytes back when it is collected as
        # garbage, which may happen at any line of any thread, also while that thread has the lock.
        self._lock = threading.RLock()
        self.unfinished: weakref.WeakSet[Parser] = weakref.WeakSet()
        """Requests whose counted bodies are still arriving. Used only by the socket thread."""

    @property
    def left(self) -> int:
        """Bytes that are not in use; negative while the limit is exceeded."""
        return self._left

    def take(self, size: int) -> bool:
        """Count ``size`` more bytes, fewer if negative. Return whether the limit is exceeded."""
        with self._lock:
            self._left -= size
            return self._left < 0

    def slowest(self, now: float) -> Parser | None:
        """Return the slowest unfinished request that is old enough, or None."""
        rates = [(request.rate(now), request) for request in self.unfinished]
        old = [(rate, request) for rate, request in rates if rate is not None]
        return min(old, key=lambda pair: pair[0])[1] if old else None


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """waitress's parser, stricter. A refused request is complete at once; the rest is ignored."""

    # A request may be refused before these are known.
    command = "GET"
    path = ""
    completed = False
    error: Error | None = None
    body_rcv: Any = None
    budget = Budget(_MAX_BODIES)
    access: Access | None = None
    """Who may send a large body; None for everybody."""
    most: int | None = None
    """Largest body in bytes; None for the limit of the settings."""
    clock: Callable[[], float] = staticmethod(time.monotonic)
    _counted = 0
    _judged = False
    """Whether it was found out whether the request may have a large body."""

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._pace = Pace(self.clock())

    def received(self, data: bytes) -> int:
        """Parse a part of the request; ignore all bytes after a refused request."""
        if self.error is not None:  # it was ended to make room for another one
            self.completed = True
            return len(data)
        try:
            consumed = int(super().received(data))
        except ValueError:  # a URL or a number that Python does not parse
            self.error = BadRequest("the URL or the content length is invalid")
            consumed = len(data)
        if self.error is None and self._is_too_large():
            self.error = RequestEntityTooLarge("")
        if not self._judged and max(self.content_length, self.body_bytes_received) > _FREE:
            self._judge()
        self._count()
        if self.error is not None:
            self.completed = True
            consumed = len(data)
        if self.completed:
            self.budget.unfinished.discard(self)
            # waitress would send 100 Continue even if the request has no body or was refused.
            self.expect_continue = False
        return consumed

    @property
    def environ(self) -> dict[str, str]:
        """The headers under their names in a WSGI environment."""
        return {f"HTTP_{name}": value for name, value in self.headers.items()}

    def _judge(self) -> None:
        """Refuse a large body without a valid key before it arrives."""
        refused = False if self.access is None else self.access.refuses(self.environ)
        self._judged = refused is not None
        if refused and self.error is None:
            self.error = NotAdmitted("")

    def _is_too_large(self) -> bool:
        """Whether the body is larger than may be, as far as is known; waitress ends chunked ones
        that are larger than the settings allow."""
        chunked = 0 if self.most is None else self.body_bytes_received - _CHUNK_SIZES
        return bool(max(self.content_length, chunked) > self.max_body)

    def is_late(self) -> bool:
        """Whether the client has used up its time to send the request."""
        received = self.body_bytes_received if self.headers_finished else None
        return is_late(self._pace.begun, received, self.clock())

    def wait(self) -> None:
        """Restart the request's time: the client cannot send while the server does not read."""
        self._pace.restart(self.clock(), self.body_bytes_received)

    def rate(self, now: float) -> float | None:
        """Return bytes of the body per second; None for a request that is too new to measure."""
        return self._pace.rate(now, self.body_bytes_received)

    def end(self, error: Error) -> None:
        """Refuse the request, and drop the part of its body that has arrived."""
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
        """End the slowest bodies until this one has room; end this one if it is the slowest."""
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
        # waitress drops unfinished requests without closing them.
        self.budget.take(-self._counted)

    @property
    def max_body(self) -> int:
        """Maximum size of a body in bytes."""
        return self.most or int(self.adj.max_request_body_size) - FRAMING

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the first line and the headers.

        Raises:
            ParsingError: they are malformed, or give two lengths.
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


def parser_class(max_body: int, access: Access | None = None) -> type[Parser]:
    """Return the parser class of one server.

    Args:
        max_body: maximum size of a body in bytes.
        access: who may send a large body; None for everybody.
    """
    budget = Budget(max(_MAX_BODIES, 4 * max_body))
    return type("OffgridParser", (Parser,), {"budget": budget, "access": access})
