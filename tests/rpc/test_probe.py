"""The handshake with ggml's RPC server, spoken from Python, and who does not pass it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from rpc_library import rpc_library

from offgrid.errors import RpcError
from offgrid.rpc.child import LOOPBACK, Child, program_of
from offgrid.rpc.probe import PROTOCOL, probe

SIZE = struct.Struct("<Q")


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A port that answers the first messages with these bytes, and then says nothing."""
    over = threading.Event()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            for answer in answers:
                connection.recv(1024)
                connection.sendall(answer)
            over.wait()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def hello(*version: int) -> bytes:
    return SIZE.pack(28) + bytes([*version]) + bytes(25)


def count(devices: int) -> bytes:
    return SIZE.pack(4) + struct.pack("<I", devices)


def refused(*answers: bytes, seconds: float = 30.0) -> str:
    with answering(*answers) as port, pytest.raises(RpcError) as caught:
        probe(LOOPBACK, port, seconds)
    return str(caught.value)


def test_a_server_of_llama_cpp_passes() -> None:
    job = json.dumps({"rpc_library": rpc_library(), "threads": 1})
    child = Child(program_of(os.getpid(), job), lambda line: None)
    try:
        found = probe(LOOPBACK, child.started.port, 30.0)
    finally:
        child.end()
    assert found.protocol == PROTOCOL
    [(free, total)] = found.memory
    assert 0 < free <= total
    assert [device.total for device in child.started.devices] == [total]


def test_a_port_that_speaks_another_protocol() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def end() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1, socket.MSG_PEEK)  # unread bytes cause a reset

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(RpcError, match="name its peer instead"):
            probe(LOOPBACK, listener.getsockname()[1], 30.0)
        thread.join()


def test_a_server_with_another_version_is_refused_with_both() -> None:
    message = refused(hello(6, 1, 2))
    assert "6.1.2" in message
    assert ".".join(map(str, PROTOCOL)) in message


@pytest.mark.parametrize("devices", [0, 17])
def test_a_server_without_a_usable_number_of_devices_is_refused(devices: int) -> None:
    assert f"lends {devices} devices" in refused(hello(*PROTOCOL), count(devices))


@pytest.mark.parametrize(
    "answers",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64),),
        (hello(*PROTOCOL), SIZE.pack(5) + bytes(5)),
    ],
    ids=["HTTP", "wrong size"],
)
def test_a_server_that_speaks_otherwise_is_refused(answers: tuple[bytes, ...]) -> None:
    assert "another size" in refused(*answers)


def test_a_port_that_says_nothing_is_refused_after_the_time() -> None:
    assert "has said nothing within 0.05 s" in refused(seconds=0.05)


def test_half_an_answer_is_not_enough() -> None:
    assert "has said nothing" in refused(hello(*PROTOCOL)[:20], seconds=0.05)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("end", [lambda connection: None, reset], ids=["closed", "reset"])
def test_a_port_that_ends_the_connection_is_refused(end: Callable[[socket.socket], None]) -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1)
            end(connection)

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RpcError, match=r"(closed|ended) the connection"):
            probe(LOOPBACK, listener.getsockname()[1], 30.0)
        thread.join()


def test_a_closed_port_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RpcError, match="cannot be reached"):
        probe(LOOPBACK, port, 30.0)
