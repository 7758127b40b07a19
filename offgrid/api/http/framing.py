"""How the chunks of a stream are written: as server-sent events, or as lines of JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from offgrid.api.http.error_bodies import Problem, Shape, openai_error

_ENCODE = msgspec.json.Encoder().encode


class Framing:
    """Events without names, ended by ``data: [DONE]``, as in OpenAI's chat and completions.

    Attributes:
        media_type: of the response.
        end: what follows the last chunk of a stream that has not failed.
        error_shape: the body of an error, which is the last chunk of a stream that has failed.
    """

    media_type = "text/event-stream; charset=utf-8"
    end = b"data: [DONE]\n\n"
    error_shape: Shape = staticmethod(openai_error)

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the frame of a chunk."""
        return b"data: " + _ENCODE(chunk) + b"\n\n"

    def error(self, problem: Problem) -> bytes:
        """Return the last frame of a stream that fails."""
        return b"data: " + _ENCODE(self.error_shape(problem)) + b"\n\n"

    def ping(self, waiting: str) -> bytes:
        """Return what is sent when no chunk came for a while; empty for nothing.

        Args:
            waiting: how far the request is if it still waits for its first token, or empty.
        """
        return f": {waiting or 'ping'}\n\n".encode()


class NamedEvents(Framing):
    """Events that are named after the ``type`` of their chunk, as in OpenAI's responses."""

    end = b""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return b"event: %b\n" % chunk["type"].encode() + super().chunk(chunk)


UNNAMED, NAMED = Framing(), NamedEvents()
PING = NAMED.ping("")
"""A comment."""
