"""``context`` of ``/api/generate``: a conversation as numbers, which the client sends back.

Ollama's numbers are tokens. These are the messages themselves, compressed, two bytes in a number:
so a conversation that goes on is rendered with the model's template like any other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from offgrid.errors import InvalidParameter

_MARK = 0x4F464647
"""The first number. No vocabulary has so many tokens."""
_MAX_SIZE = 8 << 20
"""Most bytes of the messages."""

Turns = list[tuple[Literal["system", "user", "assistant"], str]]
"""Roles and texts of messages."""
_DECODER = msgspec.json.Decoder(Turns)


def to_context(turns: Turns) -> list[int]:
    """Return a conversation as the numbers of ``context``."""
    data = zlib.compress(msgspec.json.encode(turns))
    padded = data + b"\0" * (len(data) % 2)
    return [_MARK, *struct.unpack(f"<{len(padded) // 2}H", padded)]


def from_context(numbers: Sequence[int]) -> Turns:
    """Return the conversation that :func:`to_context` made into numbers; nothing for no numbers.

    Raises:
        InvalidParameter: the numbers come from elsewhere.
    """
    if not numbers:
        return []
    try:
        if numbers[0] != _MARK:
            raise ValueError
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(struct.pack(f"<{len(numbers) - 1}H", *numbers[1:]), _MAX_SIZE)
        if not unpacker.eof:
            raise ValueError
        return _DECODER.decode(data)
    except (ValueError, struct.error, zlib.error, msgspec.MsgspecError):
        raise InvalidParameter(
            "context must be the one of an earlier answer of this server. Leave it out to begin a "
            "new conversation, or use /api/chat.",
            "context",
        ) from None
