"""Streams: server-sent events, or the lines of another API; :mod:`framing` writes the frames.

An iterator makes a stream's chunks from the deltas of its generations. Two threads take turns in
running it. The stream's own thread, which the WSGI server calls us on, makes the first frame, as
for any body. Then it waits, and the thread that reads the worker's events makes and writes the
chunks of all streams, one after the other: waking a thread for each token of each stream costs
more than making the chunk. If a client reads too slowly, its stream goes back to its own thread,
which may wait for the client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

import falcon

from offgrid.api.generation import GenerationGroup, Signal
from offgrid.api.http.error_handlers import request_problem
from offgrid.api.http.framing import UNNAMED, Framing
from offgrid.api.http.once import Once
from offgrid.api.http.waitress.environ import direct_output
from offgrid.engine.client.client import ClientGone
from offgrid.engine.client.pending import POLL
from offgrid.errors import EngineFault, RequestError
from offgrid.record import Record

log = logging.getLogger(__name__)

_MAX_BACKLOG = 64 * 1024
"""Bytes waiting for the client beyond which its stream goes back to its own thread. Far below the
amount at which the server makes a writing thread wait."""

_PATIENCE = 0.001
"""Lock timeout, in seconds, after which ``_pump`` checks whether the stream was handed back."""


Chunk = dict[str, Any] | Signal | None
"""An object to send, a mark, or None if no delta came for a moment."""


class Output(Protocol):
    """Writes frames without waiting for the client."""

    def write(self, data: bytes) -> None:
        """Send the bytes or keep them for later; raise if the client has left."""

    @property
    def backlog(self) -> int:
        """Number of bytes kept."""


class EventStream:
    """The body of a streamed response.

    A class and not a generator: ``close()`` of a generator that was never started does nothing, and
    then the engine would not learn that the client has left.

    Args:
        chunks: the chunks, made from the deltas of ``group``.
        group: the generations; cancelled once, however the stream ends.
        ping_interval: seconds without data before a ping is sent, 0 for never. While the stream
            waits for its first token, the ping says how far it is.
        output: called after the first frame; returns a way to write directly, or None.
        framing: how chunks are written.
        failed: hears status and code of the error with which the stream ends.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        group: GenerationGroup,
        ping_interval: float,
        output: Callable[[], Output | None] = lambda: None,
        *,
        framing: Framing = UNNAMED,
        failed: Callable[[int, str | None], None] = lambda status, code: None,
    ) -> None:
        self._frames = _encode(iter(chunks), ping_interval, framing, failed, lambda: group.waits)
        self._group = group
        self._cancel = Once(group.cancel)
        self._find_output = output
        self._output: Output | None = None
        self._begun = False
        self.turn = threading.Lock()
        """Held by the thread that makes frames."""
        self._handed_back = threading.Event()
        """Set while only the stream's own thread may make frames."""
        self._handed_back.set()
        self._error: BaseException | None = None

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        if self._begun:
            self._output = self._output or self._find_output()
            if self._output is not None:
                self._wait_while_others_write()
        self._begun = True
        with self.turn:
            for frame in self._frames:
                if isinstance(frame, bytes):
                    return frame
        raise StopIteration

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left. Idempotent."""
        self._group.listen(None)
        self._cancel()
        with self.turn:
            self._frames.close()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self._cancel()

    def _wait_while_others_write(self) -> None:
        """Let the thread that reads the worker's events write frames, until it cannot go on."""
        self._handed_back.clear()
        self._group.listen(self._pump)
        self._pump()  # deltas that came before ``listen``
        while not self._handed_back.wait(POLL):
            if self._group.lost:
                self._hand_back()
                break
            self._pump()  # a ping may be due
        self._group.listen(None)
        if self._error is not None:
            raise self._error

    def _hand_back(self) -> None:
        self._group.listen(None)
        self._handed_back.set()

    def _pump(self) -> None:
        """Write the available frames. Waits for nothing but another thread's turn."""
        # The stream's own thread may hold the turn while it waits for events. If the thread that
        # reads events then waited for the turn, neither could go on.
        while not self.turn.acquire(timeout=_PATIENCE):
            if self._handed_back.is_set():
                return
        try:
            if self._handed_back.is_set() or self._write_frames():
                return
            self._hand_back()
        except BaseException as ex:
            # The stream's own thread raises it: it knows how to handle a client that has left.
            self._error = ex
            self._hand_back()
        finally:
            self.turn.release()

    def _write_frames(self) -> bool:
        """Write frames that can be made now; return False if the stream's thread must go on."""
        assert self._output is not None
        frames: list[bytes] = []
        more = False
        # Leave the error of a failed generation, and a slow client, to the stream's own thread.
        if not self._group.failed and self._output.backlog < _MAX_BACKLOG:
            with self._group.at_once():
                for frame in self._frames:
                    if not isinstance(frame, bytes):
                        more = frame is None
                        break
                    frames.append(frame)
        if frames:
            self._output.write(b"".join(frames))
        return more


def _encode(
    chunks: Iterator[Chunk],
    ping_interval: float,
    framing: Framing,
    failed: Callable[[int, str | None], None],
    waits: Callable[[], str],
) -> Generator[bytes | Signal | None, None, None]:
    """Yield frames, marks, and None if no delta came for a moment."""
    spoke = time.monotonic()
    try:
        for chunk in chunks:
            if isinstance(chunk, Signal):
                yield chunk
            elif chunk is not None:
                yield framing.chunk(chunk)
            elif ping_interval and time.monotonic() - spoke >= ping_interval:
                yield framing.ping(waits()) or None
            else:
                yield None
                continue
            spoke = time.monotonic()
    except ClientGone:
        return
    except RequestError as ex:
        failed(ex.status, ex.code)
        yield framing.error(request_problem(ex))
    except Exception:
        log.exception("a stream failed")
        failed(500, "internal_error")
        yield framing.error(request_problem(EngineFault("Internal server error.")))
    else:
        if framing.end:
            yield framing.end


def send_stream(
    req: falcon.Request,
    resp: falcon.Response,
    chunks: Iterable[Chunk],
    group: GenerationGroup,
    ping_interval: float,
    *,
    framing: Framing = UNNAMED,
) -> None:
    """Make a response of a stream of chunks; see :class:`EventStream`."""
    resp.content_type = framing.media_type
    resp.set_header("Cache-Control", "no-cache")
    # Keep proxies such as nginx from buffering the chunks.
    resp.set_header("X-Accel-Buffering", "no")
    env = req.env
    record: Record | None = getattr(req.context, "record", None)
    resp.stream = EventStream(
        chunks,
        group,
        ping_interval,
        lambda: direct_output(env),
        framing=framing,
        **({} if record is None else {"failed": record.failed}),
    )
