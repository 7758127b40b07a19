"""How Ollama writes streams and errors: a line of JSON for each chunk, ``{"error": "..."}``."""

from __future__ import annotations

from typing import Any

import msgspec

from offgrid.api.http.error_bodies import Problem, Shape, ollama_error
from offgrid.api.http.framing import Framing

_ENCODE = msgspec.json.Encoder().encode


class Lines(Framing):
    """Lines of JSON. Nothing follows the last chunk, and there are no pings."""

    media_type = "application/x-ndjson"
    end = b""
    error_shape: Shape = staticmethod(ollama_error)

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return _ENCODE(chunk) + b"\n"

    def error(self, problem: Problem) -> bytes:
        return _ENCODE(self.error_shape(problem)) + b"\n"

    def ping(self, waiting: str) -> bytes:
        return b""


LINES = Lines()
