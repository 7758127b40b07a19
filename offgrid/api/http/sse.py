"""Server-sent events: ``data: {...}`` frames, ended by ``data: [DONE]``; or frames with names.

A stream's chunks are made by an iterator that asks its generations for what came. Who runs it
changes: the first frame is given to the WSGI server by the thread that it calls us on, as any body
is. Then that thread waits, and the thread that reads the worker's events makes and writes the
chunks of all streams, one after the other: to wake a thread for each token of each stream costs
more than the chunk itself. A client that reads too slowly gets its own thread back, which may wait
for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

import falcon
import msgspec

from offgrid.api.generation import POLL, GenerationGroup, Mark, Once
from offgrid.api.http.errors import request_error_body
from offgrid.api.http.waitress.environ import direct_output
from offgrid.engine.client.client import ClientGone
from offgrid.errors import EngineFault, RequestError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_MAX_BACKLOG = 64 * 1024
"""Bytes that a client may not have taken yet before its stream gets a thread of its own again. Far
below the amount at which the server makes whoever writes wait."""

_PATIENCE = 0.001
"""Seconds between two looks at whether it makes sense to wait for the turn."""


Chunk = dict[str, Any] | Mark | None
"""An object to send; None where there was silence for a moment."""


class Output(Protocol):
    """Where frames can be written without waiting for the client."""

    def write(self, data: bytes) -> None:
        """Send or keep; raise when the client is gone."""

    @property
    def backlog(self) -> int:
        """Bytes kept."""


class EventStream:
    """The body of a streamed response.

    A class and not a generator: a generator that was never started ignores ``close()``, and then
    nobody would tell the engine that the client is gone.

    Args:
        chunks: made of what ``group`` brings.
        group: the generations; cancelled once, however the stream ends.
        ping_interval: seconds of silence before a comment is sent, 0 for never.
        output: asked after the first frame for a way to write directly.
        named: a chunk's ``type`` is the name of its event, and no ``[DONE]`` follows the last.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        group: GenerationGroup,
        ping_interval: float,
        output: Callable[[], Output | None] = lambda: None,
        *,
        named: bool = False,
    ) -> None:
        self._frames = _encode(iter(chunks), ping_interval, named)
        self._group = group
        self._cancel = Once(group.cancel)
        self._find_output = output
        self._output: Output | None = None
        self._begun = False
        self._turn = threading.Lock()
        """Held by the thread that makes frames."""
        self._handed_back = threading.Event()
        """Set while nobody but the stream's own thread may make frames."""
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
        with self._turn:
            for frame in self._frames:
                if isinstance(frame, bytes):
                    return frame
        raise StopIteration

    def close(self) -> None:
        """Called by the server at the end and when the client left. Idempotent."""
        self._group.listen(None)
        self._cancel()
        with self._turn:
            self._frames.close()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self._cancel()

    def _wait_while_others_write(self) -> None:
        """Let the thread that brings events write them, until it cannot go on."""
        self._handed_back.clear()
        self._group.listen(self._pump)
        self._pump()  # what came before anybody listened
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
        """Write what there is, without waiting for anything but another's turn."""
        # The stream's own thread may hold the turn and wait for events, which nobody would bring if
        # the thread that does waited for the turn.
        while not self._turn.acquire(timeout=_PATIENCE):
            if self._handed_back.is_set():
                return
        try:
            if self._handed_back.is_set() or self._write_frames():
                return
            self._hand_back()
        except BaseException as ex:
            # The thread that waits knows what to do with a client that is gone.
            self._error = ex
            self._hand_back()
        finally:
            self._turn.release()

    def _write_frames(self) -> bool:
        """Write frames that can be made now; return False when the stream's thread has to go on."""
        assert self._output is not None
        frames: list[bytes] = []
        more = False
        # The end, good or bad, is left to the stream's own thread.
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
    chunks: Iterator[Chunk], ping_interval: float, named: bool
) -> Generator[bytes | Mark | None, None, None]:
    """Yield frames, None where there was silence for a moment, and marks."""
    spoke = time.monotonic()
    try:
        for chunk in chunks:
            if isinstance(chunk, Mark):
                yield chunk
            elif chunk is not None:
                name = f"event: {chunk['type']}\n".encode() if named else b""
                yield name + b"data: " + msgspec.json.encode(chunk) + b"\n\n"
            elif ping_interval and time.monotonic() - spoke >= ping_interval:
                yield PING
            else:
                yield None
                continue
            spoke = time.monotonic()
    except ClientGone:
        return
    except RequestError as ex:
        yield b"data: " + msgspec.json.encode(request_error_body(ex)) + b"\n\n"
    except Exception:
        log.exception("a stream failed")
        error = request_error_body(EngineFault("Internal server error."))
        yield b"data: " + msgspec.json.encode(error) + b"\n\n"
    else:
        if not named:
            yield DONE


def send_stream(
    req: falcon.Request,
    resp: falcon.Response,
    chunks: Iterable[Chunk],
    group: GenerationGroup,
    ping_interval: float,
    *,
    named: bool = False,
) -> None:
    """Make a response of a stream of chunks; see :class:`EventStream`."""
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    # Proxies such as nginx would collect the chunks.
    resp.set_header("X-Accel-Buffering", "no")
    env = req.env
    resp.stream = EventStream(chunks, group, ping_interval, lambda: direct_output(env), named=named)
