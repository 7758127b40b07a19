"""Speaks the first words of ggml's RPC from Python.

llama.cpp ends its process if the other end is not a server of its version. So the handshake is
tried here first. Source of the format: ``ggml-rpc.cpp`` of llama.cpp (``rpc_cmd``, packed structs,
little-endian): a request is a command (1 byte), the size of its data (8 bytes), and the data; a
response is a size and the data.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import NamedTuple

from offgrid.errors import RpcError
from offgrid.rpc.messages import receive

PROTOCOL = (7, 0, 0)
"""``RPC_PROTO_*_VERSION`` of the llama.cpp in the llama-cpp-python that OffGrid requires."""
_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_CAPABILITIES = bytes(24)
"""Of this end: none besides TCP."""
_REQUEST, _SIZE = struct.Struct("<BQ"), struct.Struct("<Q")
_MOST_DEVICES = 16


class Probed(NamedTuple):
    """What an RPC server says of itself: for each device, its free and its whole memory in
    bytes."""

    protocol: tuple[int, int, int]
    memory: tuple[tuple[int, int], ...]


def probe(address: str, port: int, seconds: float) -> Probed:
    """Ask an RPC server for its version and devices.

    A server serves one connection after the other. So this waits, until the time is over, while
    another client uses it.

    Args:
        address: numeric address.
        port: TCP port.
        seconds: time for everything.

    Raises:
        RpcError: it cannot be used; the message says why, without the address.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.create_connection((address, port), seconds) as connection:
            return _converse(connection, deadline)
    except TimeoutError:
        raise RpcError(
            f"it has accepted the connection, but has said nothing within {seconds:g} s: another "
            "client uses it, or it is not a server of llama.cpp's RPC"
        ) from None
    except (ConnectionResetError, BrokenPipeError):
        raise RpcError(
            "it has ended the connection: it is no server of llama.cpp's RPC. If 'offgrid "
            "rpc-worker' runs there, name its peer instead"
        ) from None
    except OSError as ex:
        raise RpcError(f"it cannot be reached ({ex.strerror or ex})") from None


def check_protocol(protocol: tuple[int, int, int]) -> None:
    """Refuse another version of the RPC than llama.cpp has here.

    Raises:
        RpcError: the message has both versions.
    """
    if protocol != PROTOCOL:
        raise RpcError(
            f"it speaks version {_dotted(protocol)} of llama.cpp's RPC, and this machine "
            f"{_dotted(PROTOCOL)}: install the same version of llama-cpp-python on both"
        )


def _converse(connection: socket.socket, deadline: float) -> Probed:
    protocol = say_hello(connection, deadline)
    (count,) = exchange(connection, _DEVICE_COUNT, b"", "<I", deadline)
    if not 0 < count <= _MOST_DEVICES:
        raise RpcError(f"it lends {count} devices; 1 to {_MOST_DEVICES} can be used")
    numbers = (struct.pack("<I", number) for number in range(count))
    memory = [exchange(connection, _DEVICE_MEMORY, one, "<2Q", deadline) for one in numbers]
    return Probed(protocol, tuple((free, total) for free, total in memory))


def say_hello(connection: socket.socket, deadline: float) -> tuple[int, int, int]:
    """Begin to speak on a new connection; return the server's version. Errors as
    :func:`exchange`."""
    major, minor, patch = exchange(connection, _HELLO, _CAPABILITIES, "<3B25x", deadline)
    check_protocol((major, minor, patch))
    return major, minor, patch


def exchange(
    connection: socket.socket, command: int, data: bytes, form: str, deadline: float
) -> tuple[int, ...]:
    """Send a command, and return the numbers of its answer.

    Args:
        connection: to the server.
        command: its number.
        data: its data.
        form: of the answer, for :mod:`struct`.
        deadline: monotonic seconds.

    Raises:
        RpcError: the answer is not valid, or the connection has ended.
        OSError: the connection has failed, or the answer has not come in time (TimeoutError).
    """
    say(connection, command, data)
    (size,) = _SIZE.unpack(receive(connection, _SIZE.size, deadline))
    if size != struct.calcsize(form):
        raise RpcError("its answer has another size than llama.cpp's RPC here expects")
    return struct.unpack(form, receive(connection, size, deadline))


def say(connection: socket.socket, command: int, *data: bytes) -> None:
    """Send a command with its data. Raises OSError if that fails."""
    connection.sendall(_REQUEST.pack(command, sum(map(len, data))))
    for part in data:
        connection.sendall(part)


def _dotted(protocol: tuple[int, int, int]) -> str:
    return ".".join(map(str, protocol))
