"""What comes from the socket: chunks in any packets, and the end of a connection."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TIMEOUT, eventually, request
from waitress.buffers import OverflowableBuffer

from offgrid.api import wire
from offgrid.api.wire import ChunkedBody
from offgrid.server import Server

Make = Callable[..., Server]


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), TIMEOUT)


def read_all(connection: socket.socket) -> bytes:
    content = b""
    while piece := connection.recv(1 << 16):
        content += piece
    return content


def take(packets: list[bytes]) -> tuple[ChunkedBody, int]:
    """Give packets to a body as waitress does; return it and the bytes that it took."""
    body, taken = ChunkedBody(OverflowableBuffer(1 << 20)), 0
    for packet in packets:
        if body.completed or body.error:
            break
        taken += body.received(packet)
    return body, taken


def cut(text: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(text) + 1) for place in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.sampled_from([b"", b";a=b", b" ; a", b';q="\xff"']),
    st.sampled_from([b"", b"x: y\r\n", b"a:\r\nb-c: d\r\n"]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 1000), max_size=12),
)
def test_a_chunked_body_in_any_packets(
    chunks: list[bytes], extension: bytes, trailer: bytes, rest: bytes, cuts: list[int]
) -> None:
    text = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    text += b"0\r\n" + trailer + b"\r\n"
    body, taken = take(cut(text + rest, cuts))
    assert (body.completed, body.error) == (True, None)
    assert taken == len(text)
    assert body.getfile().read() == b"".join(chunks)


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n", b"5\n", b"5 5\r\n", b"0x5\r\n", b"-1\r\n", b"+1\r\n", b"g\r\n", b" 5\r\n",
        b"5\r\r\n", b"1" * 17 + b"\r\n", b"5;a\x00\r\n", b"5;a\r;b\r\n", b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n", b"0\r\n\n", b"0\r\nx\r\n\r\n", b"0\r\nGET / HTTP/1.1\r\n\r\n",
        b"0\r\n x: y\r\n\r\n", b"1" * 10_000, b"1;" + b"a" * 10_000,
        b"0\r\n" + b"x: yyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 1000,
    ],
    ids=lambda text: repr(text[:16]),
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 10, 1 << 16])
def test_chunks_that_others_may_understand_differently(text: bytes, size: int) -> None:
    body, _ = take([text[at : at + size] for at in range(0, len(text), size)])
    assert body.error is not None
    assert not body.completed


def test_a_line_without_an_end_is_not_kept(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_MAX_LINE", 100)
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(make_server().url) as connection:
        connection.sendall(head + b"1;" + b"a" * 200)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_who_goes_on_sending_is_cut_off_at_last(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response can be read before that, and the server goes on."""
    monkeypatch.setattr(wire, "_MAX_DISCARDED", 1 << 20)
    server = make_server()
    piece = bytes(1 << 16)
    with connect(server.url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
        with contextlib.suppress(OSError):
            for _ in range(4096):
                connection.sendall(piece)
            raise AssertionError("everything is read")
    assert request(server.url, "GET", "/health").status == 200
    eventually(lambda: not server._server.active_channels, "the connections are closed")


def test_bodies_that_never_end_do_not_fill_the_disk(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together have a limit; what is dropped makes room again."""
    monkeypatch.setattr(wire, "_MAX_BODIES", 0)
    server = make_server(max_body_mb=1)  # so it is 4 MiB
    url, budget = server.url, server._server.channel_class.parser_class.budget
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(url)) for _ in range(4)]
        for connection in waiting:
            connection.sendall(head + bytes(900_000))
        eventually(lambda: budget._left == (4 << 20) - 4 * 900_000, "four bodies are there")
        with connect(url) as fifth:
            fifth.sendall(head + bytes(900_000))
            answer = read_all(fifth)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
        assert b"server_busy" in answer
        assert request(url, "GET", "/health").status == 200
        for connection in waiting[1:]:
            connection.sendall(bytes(100_000))
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert (response.status, b"invalid_json" in response.read()) == (400, True)
    # The first never ends its body.
    eventually(lambda: budget._left == 4 << 20, "all room is free again")


def test_pages_that_may_call_can_read_a_refusal(make_server: Make) -> None:
    url = make_server(cors_origins="http://a.example").url
    for origin, allowed in (("http://a.example", True), ("http://b.example", False)):
        head = f"POST / HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nContent-Length: 99999999\r\n\r\n"
        with connect(url) as connection:
            connection.sendall(head.encode())
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert (f"Access-Control-Allow-Origin: {origin}".encode() in answer) == allowed


@pytest.mark.parametrize("limit", ["_QUIET_SECONDS", "_LINGER_SECONDS"])
def test_who_never_closes_is_closed(
    make_server: Make, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(wire, limit, 0.0)
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: not server._server.active_channels, "the connection is closed")


def test_a_connection_that_ends_is_read_to_its_end(make_server: Make) -> None:
    """What a client sends after the last request does not destroy the response."""
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        eventually(
            lambda: any(c._lingering for c in server._server.active_channels.values()),
            "the response is sent",
        )
        connection.sendall(b"x" * 100_000)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert json.loads(response.read()) == {"status": "healthy"}


@pytest.mark.skipif(not hasattr(socket, "MSG_OOB"), reason="no urgent data")
def test_urgent_data_ends_a_connection(make_server: Make) -> None:
    """It would wake the server again and again."""
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        eventually(lambda: bool(server._server.active_channels), "it is connected")
        connection.send(b"!", socket.MSG_OOB)
        eventually(lambda: not server._server.active_channels, "the connection is closed")
