"""Fills a cache of tensors for ggml's RPC server.

Such a server can read large tensors from files, so that the borrower need not send them. A file is
named by a hash of its bytes (FNV-1a with 64 bits), which only ggml computes fast enough. So the
bytes are sent to a server of this machine, which writes the files. Source of the format:
``ggml-rpc.cpp`` (``rpc_tensor``, ``set_tensor``).
"""

from __future__ import annotations

import socket
import struct
import time

from offgrid.errors import RpcError
from offgrid.rpc.probe import exchange, say, say_hello

LEAST = 10 << 20
"""``HASH_THRESHOLD``: llama.cpp asks a cache only for tensors with more bytes."""
MOST = (1 << 32) - 1
"""Bytes of the largest tensor that can be described as a row of bytes."""
_ALLOCATE, _BASE, _SET, _COUNT = 0, 3, 6, 15
_BYTES = 24
"""``GGML_TYPE_I8``."""
_TENSOR = struct.Struct("<QIQ4I4II16ii10QQQQ64si")
_SECONDS = 60.0
"""Time for an answer: the server has written a file then."""


class Seeder:
    """Sends tensors to a server that writes them into its cache.

    Args:
        connection: to ggml's RPC server, new.
        largest: bytes of the largest tensor.

    Raises:
        RpcError: the server does not answer as expected, or has no memory for a tensor.
        OSError: the connection has failed.
    """

    def __init__(self, connection: socket.socket, largest: int) -> None:
        self._connection = connection
        say_hello(connection, self._deadline())
        request = struct.pack("<IQ", 0, largest)
        self._buffer, size = exchange(connection, _ALLOCATE, request, "<2Q", self._deadline())
        if not self._buffer or size < largest:
            raise RpcError("there is no memory for filling the cache of tensors")
        request = struct.pack("<Q", self._buffer)
        (self._base,) = exchange(connection, _BASE, request, "<Q", self._deadline())

    def send(self, data: bytes) -> None:
        """Let the server write a file with these bytes. It is complete when this returns."""
        size = len(data)
        tensor = _TENSOR.pack(
            1, _BYTES, self._buffer, size, 1, 1, 1, 1, size, size, size, 0, *[0] * 16, 0,
            *[0] * 10, 0, 0, self._base, b"seed", 0,
        )  # fmt: skip
        self._connection.settimeout(_SECONDS)
        # A flag: it is to be written; and where in the tensor the bytes begin.
        say(self._connection, _SET, tensor + struct.pack("<BQ", 1, 0), data)
        exchange(self._connection, _COUNT, b"", "<I", self._deadline())

    def _deadline(self) -> float:
        return time.monotonic() + _SECONDS
