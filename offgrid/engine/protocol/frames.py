"""Frames: how commands and reports cross the pipes.

A frame is a 4-byte little-endian length and that many bytes of MessagePack. The server writes
``Command`` frames to the worker's standard input; the worker writes ``Report`` frames to a
duplicate of its standard output. Only plain data crosses: no pickles, and no logits but the single
rows that requests ask for. A checked JSON schema crosses as text.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from types import MappingProxyType
from typing import IO, Any

import msgspec

from offgrid.engine.protocol.commands import Command
from offgrid.engine.protocol.reports import Report

MAX_FRAME = 64 * 1024 * 1024
"""Bytes. No process writes a longer frame. A header with a larger length means that reader and
writer are out of step, and the pipe is abandoned."""


class FrameTooLarge(ValueError):
    """A message does not fit into a frame; no part of it was written."""


_HEADER = struct.Struct("<I")
_READ_SIZE = 1 << 16


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):  # the biases of SamplingParams
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not cross the pipe")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_command_decoder = msgspec.msgpack.Decoder(Command)
_report_decoder = msgspec.msgpack.Decoder(Report)


def encode_frame(message: Command | Report) -> bytes:
    """Return the whole frame of a message.

    Raises:
        FrameTooLarge: its body would be longer than :data:`MAX_FRAME`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLarge(f"{len(body)} bytes are more than the {MAX_FRAME} of a frame")
    return _HEADER.pack(len(body)) + body


def _check_length(length: int) -> None:
    if length > MAX_FRAME:
        raise ValueError(f"frame of {length} bytes: the pipe is out of step")


def _read_body(stream: IO[bytes]) -> bytes | None:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    _check_length(length)
    body = stream.read(length)
    return body if len(body) == length else None


def read_command(stream: IO[bytes]) -> Command | None:
    """Return the next command, or None at the end of the pipe (also inside a frame)."""
    body = _read_body(stream)
    return None if body is None else _command_decoder.decode(body)


def read_reports(stream: IO[bytes]) -> Iterator[list[Report]]:
    """Yield the reports that came since the last yield, at least one, until the pipe ends.

    Args:
        stream: a pipe that no other code reads from.

    Raises:
        ValueError, msgspec.DecodeError: the pipe is out of step.
    """
    fd = stream.fileno()
    buffer = bytearray()
    while data := os.read(fd, _READ_SIZE):
        buffer += data
        if reports := take_reports(buffer):
            yield reports


def take_reports(buffer: bytearray) -> list[Report]:
    """Remove all complete frames from a buffer and return their reports.

    Raises:
        ValueError, msgspec.DecodeError: the buffer does not begin with a frame.
    """
    reports: list[Report] = []
    at = 0
    while len(buffer) - at >= _HEADER.size:
        (length,) = _HEADER.unpack_from(buffer, at)
        _check_length(length)
        end = at + _HEADER.size + length
        if end > len(buffer):
            break
        reports.append(_report_decoder.decode(memoryview(buffer)[at + _HEADER.size : end]))
        at = end
    del buffer[:at]
    return reports
