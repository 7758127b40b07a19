"""What both ends of a TLS connection between a borrower and a lender say before ggml speaks.

Each message is one line of JSON. The borrower asks first: for the ``status``, for a session
(``lend``), or for the connection of a session on which ggml will speak (``data``).
"""

from __future__ import annotations

import contextlib
import socket
import time

import msgspec

from offgrid.errors import RpcError

MAX_LINE = 16384
"""Bytes of a message."""
BEAT, BEATS_MISSED = 1.0, 5
"""Seconds between two lines of the borrower during a session, and how many answers in a row may be
missing before the lender counts as lost. The lender gives up after three times as long."""
ALIVE, STOPPED = "alive", "stopped"
"""Answers to a beat: the process that computes runs, or it was stopped. Any other answer says why
the session has ended."""


class Device(msgspec.Struct, frozen=True, array_like=True):
    """A device that is lent, and the bytes of its memory. ``own``: that is a graphics card's, not
    the main memory of the machine."""

    name: str
    free: int
    total: int
    own: bool = False


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a connection. ``build`` is the borrower's llama.cpp.

    For a new session: ``model`` is the SHA-256 of the model's file if that is known, ``layers`` how
    many of its layers the lender gets, and ``after`` how many layers follow these. With them the
    lender can use its own copy of the model.
    """

    ask: str
    build: str = ""
    session: str = ""
    model: str = ""
    layers: int = 0
    after: int = 0


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer. ``error`` is empty if it is yes.

    ``build`` is the lender's llama.cpp, ``free`` the bytes of memory that it can lend, ``devices``
    what it computes on. ``wait`` says that the lender still prepares; another answer follows.
    """

    build: str = ""
    free: int = 0
    devices: tuple[Device, ...] = ()
    session: str = ""
    error: str = ""
    wait: bool = False


_ask, _offer = msgspec.json.Decoder(Ask), msgspec.json.Decoder(Offer)


def send_line(connection: socket.socket, message: Ask | Offer | str) -> None:
    """Send a message.

    Raises:
        OSError: the connection has ended, or takes no bytes within its time limit.
    """
    data = message.encode() if isinstance(message, str) else msgspec.json.encode(message)
    connection.sendall(data + b"\n")


def read_line(connection: socket.socket, seconds: float, begun: bytearray | None = None) -> str:
    """Return the next line, without its end.

    Args:
        connection: to the other end.
        seconds: time for the rest of the line.
        begun: keeps the part of the line that has arrived if the time ends within it; the next
            call with it goes on there. Without it, no line can be read after a TimeoutError.

    Raises:
        RpcError: it is too long, or the connection has ended.
        OSError: it has not come in time (TimeoutError), or the connection has failed.
    """
    deadline, data = time.monotonic() + seconds, bytearray() if begun is None else begun
    while not data.endswith(b"\n"):
        if len(data) > MAX_LINE:
            raise RpcError("the other end sends no lines; it is not an OffGrid RPC worker")
        # One byte at a time: what follows the line belongs to ggml.
        data += receive(connection, 1, deadline)
    line = data[:-1].decode("utf-8", "replace")
    data.clear()
    return line


def receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Return exactly so many bytes.

    Raises:
        RpcError: the connection has ended.
        OSError: they have not come by ``deadline`` (TimeoutError), or the connection has failed.
    """
    data = bytearray()
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(size - len(data))
        if not part:
            raise RpcError("the other end has closed the connection")
        data += part
    return bytes(data)


def read_ask(connection: socket.socket, seconds: float) -> Ask:
    """Return the first message of a borrower; errors as :func:`read_line`."""
    try:
        return _ask.decode(read_line(connection, seconds))
    except msgspec.DecodeError:
        raise RpcError("the other end is no OffGrid server of this version") from None


def read_offer(connection: socket.socket, seconds: float) -> Offer:
    """Return a lender's answer; errors as :func:`read_line`."""
    try:
        return _offer.decode(read_line(connection, seconds))
    except msgspec.DecodeError:
        raise RpcError("the other end is no OffGrid RPC worker of this version") from None


def other_build(there: str, here: str) -> str:
    """Return what is wrong with a lender of another build than this machine's, without its name."""
    return (
        f"has another llama.cpp: {there} there, {here} here; install the same version of OffGrid "
        "and of llama-cpp-python on both machines"
    )


def end_connection(connection: socket.socket) -> None:
    """End a connection, also one that another thread waits for: that thread sees its end."""
    with contextlib.suppress(OSError):
        # NOTE: SSLSocket.shutdown drops the TLS object that the other thread uses.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
