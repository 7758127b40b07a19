"""Server-sent events: ``data: {...}`` frames, ended by ``data: [DONE]``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import falcon
import msgspec

from offgrid.api.errors import error_body
from offgrid.api.running import Once
from offgrid.engine.client import ClientGone
from offgrid.errors import EngineFault, RequestError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


class EventStream:
    """The body of a streamed response.

    A class and not a generator: a generator that was never started ignores ``close()``, and then
    nobody would tell the engine that the client is gone.

    Args:
        chunks: objects to send; None where there was silence for a moment.
        cancel: ends the generation; called once, however the stream ends.
        ping_interval: seconds of silence before a comment is sent, 0 for never.
    """

    def __init__(
        self,
        chunks: Iterable[dict[str, Any] | None],
        cancel: Callable[[], None],
        ping_interval: float,
    ) -> None:
        self._frames = self._encode(iter(chunks), ping_interval)
        self._cancel = Once(cancel)

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        """Called by the server at the end and when the client left. Idempotent."""
        self._cancel()
        self._frames.close()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self._cancel()

    @staticmethod
    def _encode(
        chunks: Iterator[dict[str, Any] | None], ping_interval: float
    ) -> Generator[bytes, None, None]:
        spoke = time.monotonic()
        try:
            for chunk in chunks:
                if chunk is not None:
                    yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
                elif ping_interval and time.monotonic() - spoke >= ping_interval:
                    yield PING
                else:
                    continue
                spoke = time.monotonic()
        except ClientGone:
            return
        except RequestError as ex:
            yield b"data: " + msgspec.json.encode(error_body(ex)) + b"\n\n"
        except Exception:
            log.exception("a stream failed")
            error = error_body(EngineFault("Internal server error."))
            yield b"data: " + msgspec.json.encode(error) + b"\n\n"
        else:
            yield DONE


def send_stream(resp: falcon.Response, stream: EventStream) -> None:
    """Make a response of a stream."""
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    # Proxies such as nginx would collect the chunks.
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = stream
