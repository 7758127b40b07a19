"""The response of a peer, as it is sent to the client: byte for byte, each piece at once.

Only the beginning of an event is held back until the rest has come, which is in the next packet. So
if the peer is lost, what the client has ends with a whole event, and an error can follow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import msgspec

from offgrid.api.http.error_bodies import Problem
from offgrid.api.http.error_handlers import request_problem
from offgrid.api.http.framing import Framing, NamedEvents
from offgrid.api.shapes import Json
from offgrid.engine.client.client import ClientGone
from offgrid.errors import RequestError
from offgrid.peers.forwarding.running import Running

_MAX_HELD = 1 << 20
"""Bytes of the beginning of an event that are held back."""
WHOLE = 1 << 20
"""Bytes of a whole answer that are read before its head is sent; a longer one is sent piece by
piece."""
_NUMBER = re.compile(rb'"sequence_number":(\d{1,9})')


class ResponseEvents(NamedEvents):
    """Events of ``/v1/responses``. The last one of a stream that fails has the response object, so
    this notes what has passed."""

    def __init__(self, request_id: str = "") -> None:
        self._first = b""
        self._number = -1

    def seen(self, frames: bytes) -> None:
        """Note whole events."""
        if not self._first:
            self._first = frames.partition(b"\n\n")[0]
        for number in _NUMBER.findall(frames):
            self._number = int(number)

    def error(self, problem: Problem) -> bytes:
        number = self._number + 1
        error = {"code": "server_error", "message": problem.message}
        response = self._begun()
        if response is None:
            return self.chunk(
                {"type": "error", "sequence_number": number, **error, "param": problem.param}
            )
        response |= {"status": "failed", "error": error, "store": False}
        return self.chunk(
            {"type": "response.failed", "sequence_number": number, "response": response}
        )

    def _begun(self) -> Json | None:
        """Return the response object of the first event, if that has come."""
        with contextlib.suppress(msgspec.MsgspecError, KeyError, TypeError):
            _, _, data = self._first.partition(b"data: ")
            response = msgspec.json.decode(data)["response"]
            return response if isinstance(response, dict) else None
        return None


class RelayedStream:
    """The body of a stream. A class and not a generator: ``close()`` of a generator that was never
    started does nothing.

    Args:
        running: the request, whose response has begun.
        framing: writes the error with which the stream ends if the peer is lost.
        ends: what follows each event.
        failed: hears status and code of such an error.
    """

    def __init__(
        self,
        running: Running,
        framing: Framing,
        ends: bytes,
        failed: Callable[[int, str | None], None],
    ) -> None:
        self._running, self._framing, self._ends = running, framing, ends
        self._failed = failed
        self._held = b""
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._over:
            frames = self._next()
            if frames:
                return frames
        raise StopIteration

    def _next(self) -> bytes:
        """Return whole events; nothing if none has come, or the stream is over."""
        try:
            piece = self._running.read()
        except ClientGone:
            self._over = True
            return b""
        except RequestError as ex:
            self._over = True
            self._failed(ex.status, ex.code)
            return self._framing.error(request_problem(ex))
        if not piece:
            self._over = True
            return self._held
        return self._whole(self._held + piece)

    def _whole(self, data: bytes) -> bytes:
        end = data.rfind(self._ends) + len(self._ends)
        if end < len(self._ends):
            end = len(data) if len(data) > _MAX_HELD else 0
        frames, self._held = data[:end], data[end:]
        if frames and isinstance(self._framing, ResponseEvents):
            self._framing.seen(frames)
        return frames

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left. Idempotent."""
        self._running.close()


class RelayedBody:
    """The body of a long answer that is not a stream. If the peer is lost, the connection to the
    client ends before the body does.

    Args:
        begin: what was read of it.
        running: the request.
    """

    def __init__(self, begin: bytes, running: Running) -> None:
        self._begin, self._running = begin, running

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece, self._begin = self._begin or self._running.read(), b""
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left. Idempotent."""
        self._running.close()


def read_whole(running: Running) -> tuple[bytes, bool]:
    """Read an answer up to :data:`WHOLE` bytes; return it, and whether that is all of it.

    Raises:
        PeerLost, ClientGone, RequestTimeout: see :meth:`Running.read`.
    """
    data = bytearray()
    while len(data) <= WHOLE:
        piece = running.read()
        if not piece:
            return bytes(data), True
        data += piece
    return bytes(data), False
