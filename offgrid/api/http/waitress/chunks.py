"""A strict reader of bodies in chunked transfer coding (RFC 9112, section 7.1)."""

from __future__ import annotations

import re
from typing import Any

from waitress.utilities import BadRequest

_MAX_LINE = 8192
"""Bytes of the line with a chunk's size and its extensions."""
_MAX_TRAILER = 16384
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
_TRAILER_FIELD = re.compile(rb"[\w!#$%&'*+.^`|~-]+:[\t -~\x80-\xff]*\r\n")


class ChunkedBody:
    """Parses a chunked body, in time linear in its bytes, and keeps the data of its chunks.

    waitress's own receiver scans an unfinished line again for each packet, and accepts lines that
    other servers understand differently.

    Attributes:
        completed: whether the last chunk and the trailer have arrived.
        error: the reason why the body is refused, or None.
    """

    def __init__(self, buffer: Any) -> None:
        self.completed = False
        self.error: BadRequest | None = None
        self._buffer = buffer
        self._line = b""
        self._take_line = self._take_size
        self._left = 0
        """Bytes of the current chunk that have not arrived yet."""
        self._trailer = 0

    def received(self, data: bytes) -> int:
        """Parse bytes that arrived; return how many of them belong to the body."""
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
        """The buffer that holds the body."""
        return self._buffer
