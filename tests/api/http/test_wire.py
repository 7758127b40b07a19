"""Data from the socket: chunked bodies in any packets, and the end of a connection."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TIMEOUT, eventually, request, response_on
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer

from offgrid.api.http.waitress import channel, chunks, parser
from offgrid.api.http.waitress.chunks import ChunkedBody
from offgrid.api.http.waitress.parser import Budget, Busy, Parser, is_late
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


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the content of the next response."""
    response = response_on(connection)
    return response.status, response.body


def unfinished(server: Server) -> list[Parser]:
    """The requests that have arrived only in part."""
    channels = server.http.channels
    return [channel.request for channel in channels if channel.request is not None]


def any_body(server: Server, size: int) -> bool:
    """Whether ``size`` bytes of an unfinished body have arrived."""
    return any(parser.body_bytes_received == size for parser in unfinished(server))


def arrived(server: Server) -> int:
    """How many bytes of all unfinished bodies have arrived."""
    return sum(parser.body_bytes_received for parser in unfinished(server))


def take(packets: list[bytes]) -> tuple[ChunkedBody, int]:
    """Give packets to a body as waitress does; return it and the number of bytes that it took."""
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
def test_chunks_that_proxies_may_parse_differently(text: bytes, size: int) -> None:
    body, _ = take([text[at : at + size] for at in range(0, len(text), size)])
    assert body.error is not None
    assert not body.completed


def test_a_line_without_an_end_is_not_kept(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_MAX_LINE", 100)
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(make_server().url) as connection:
        connection.sendall(head + b"1;" + b"a" * 200)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_keeps_sending_is_disconnected_at_last(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client can read the response before that, and the server continues."""
    monkeypatch.setattr(channel, "_MAX_DISCARDED", 1 << 20)
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
    eventually(lambda: not server.http.channels, "the connections are closed")


def test_bodies_that_never_end_do_not_fill_the_disk(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bodies together have a limit; a dropped body frees its share."""
    monkeypatch.setattr(parser, "_MAX_BODIES", 0)
    server = make_server(max_body_mb=1)  # makes the common limit 4 MiB
    # No body counts as slow, however long the test takes.
    monkeypatch.setattr(server.http.parser, "clock", lambda _: 0.0)
    url, budget = server.url, server.http.parser.budget
    assert budget.limit == 4 << 20
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(url)) for _ in range(5)]
        for connection in waiting:
            connection.sendall(head + bytes(880_000))
        eventually(lambda: arrived(server) == 5 * 880_000, "five bodies are there")
        assert 0 < budget.left < 800_000
        with connect(url) as sixth:
            sixth.sendall(head + bytes(900_000))
            answer = read_all(sixth)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
        assert b"server_busy" in answer
        assert request(url, "GET", "/health").status == 200
        with connect(url) as small:
            small.sendall(head.replace(b"1000000", b"12000") + bytes(6000))
            eventually(lambda: any_body(server, 6000), "half of a small body is there")
            small.sendall(bytes(6000))
            assert b"invalid_json" in answer_of(small)[1]
        for connection in waiting[1:]:
            # The room of a body is free again shortly after its answer.
            eventually(lambda: budget.left > 120_000, "there is room for the rest of a body")
            connection.sendall(bytes(120_000))
            status, content = answer_of(connection)
            assert (status, b"invalid_json" in content) == (400, True)
    # The first client never ends its body.
    eventually(lambda: budget.left == budget.limit, "all room is free again")


@given(st.integers(0, 1 << 24), st.floats(0, 1e9), st.floats(0, 1e4))
def test_the_deadline_of_a_body(received: int, begun: float, waited: float) -> None:
    """E6: the deadline is half a minute plus one second for each 10 kB."""
    seconds = 30 + received / 10_000
    assert not is_late(begun, received, begun + min(waited, 0.99 * seconds))
    assert is_late(begun, received, begun + 1.01 * seconds + waited)


@given(st.floats(0, 1e9), st.floats(0, 1e4))
def test_the_deadline_of_headers(begun: float, waited: float) -> None:
    """E6."""
    assert not is_late(begun, None, begun + min(waited, 9.9))
    assert is_late(begun, None, begun + 10.1 + waited)


class Uploads:
    """Bodies of 10 MB that arrive at times set by the test; 1 MB of them may be held."""

    def __init__(self) -> None:
        self.now = 0.0
        fields = {"budget": Budget(1_000_000), "clock": lambda _: self.now}
        self._class = type("TimedParser", (Parser,), fields)

    def begin(self, size: int) -> Parser:
        parser: Parser = self._class(
            Adjustments(max_request_body_size=1 << 30, inbuf_overflow=1 << 30)
        )
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n"
        parser.received(head)
        parser.received(bytes(size))
        return parser


def test_the_slowest_body_makes_room_for_a_new_one() -> None:
    uploads = Uploads()
    slow, fast = uploads.begin(500_000), uploads.begin(500_000)
    uploads.now = 9.0
    refused = uploads.begin(500_000)  # too early to call any body slow
    assert [isinstance(p.error, Busy) for p in (slow, fast, refused)] == [False, False, True]
    uploads.now = 11.0
    fast.received(bytes(10_000))
    new = uploads.begin(500_000)
    assert isinstance(slow.error, Busy)
    assert (fast.error, new.error) == (None, None)
    # The rest of the slow body is read and ignored.
    assert (slow.received(b"abc"), slow.completed) == (3, True)


def test_a_stalled_body_is_slow_however_fast_it_began() -> None:
    uploads = Uploads()
    still, steady = uploads.begin(800_000), uploads.begin(70_000)
    for now in range(1, 30):
        uploads.now = float(now)
        still.received(b"1")
        steady.received(bytes(2000))
    new = uploads.begin(400_000)
    assert isinstance(still.error, Busy)
    assert (steady.error, new.error) == (None, None)


def test_the_slowest_body_does_not_end_others() -> None:
    uploads = Uploads()
    slow, other = uploads.begin(400_000), uploads.begin(680_000)
    uploads.now = 11.0
    slow.received(bytes(40_000))
    assert (slow.error, other.error) == (None, None)
    slow.received(bytes(40_000))
    assert isinstance(slow.error, Busy)
    assert other.error is None


@pytest.mark.slow
def test_an_occasional_byte_keeps_no_request_open(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E6: of headers or of a body. Earlier requests of the connection are answered first."""
    server = make_server()
    requests = server.http.parser
    now = [0.0]
    monkeypatch.setattr(requests, "clock", lambda _: now[0])
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(server.url) as one, connect(server.url) as two, connect(server.url) as idle:
        idle.sendall(health)
        assert answer_of(idle)[0] == 200
        one.sendall(health + head + bytes(200_000))
        two.sendall(head[:20])
        assert answer_of(one)[0] == 200
        eventually(lambda: any_body(server, 200_000), "a part of the body is there")
        eventually(lambda: len(unfinished(server)) == 2, "a part of the headers is there")
        now[0] = 11.0  # after the deadline of the headers
        assert answer_of(two)[0] == 408
        assert two.recv(1) == b""
        assert any_body(server, 200_000)
        now[0] = 51.0
        status, content = answer_of(one)
        assert (status, b"request_timeout" in content) == (408, True)
        assert one.recv(1) == b""
        idle.sendall(health)
        assert answer_of(idle)[0] == 200
    assert requests.budget.left == requests.budget.limit


def test_the_client_of_a_body_dropped_for_another_is_told_so(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "_MAX_BODIES", 0)
    server = make_server(max_body_mb=1)
    now = [0.0]
    monkeypatch.setattr(server.http.parser, "clock", lambda _: now[0])
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server.url)) for _ in range(5)]
        for connection in held:
            connection.sendall(head + bytes(850_000 if connection is held[0] else 880_000))
        eventually(lambda: arrived(server) == 4_370_000, "all bodies are there")
        now[0] = 10.0
        new = stack.enter_context(connect(server.url))
        new.sendall(head + bytes(1_000_000))
        status, content = answer_of(new)
        assert (status, b"invalid_json" in content) == (400, True)
        status, content = answer_of(held[0])
        assert (status, b"arrived slowly" in content) == (503, True)
        held[1].sendall(bytes(120_000))
        assert answer_of(held[1])[0] == 400


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
def test_a_connection_that_the_client_never_closes_is_closed(
    make_server: Make, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(channel, limit, 0.0)
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: not server.http.channels, "the connection is closed")


def test_an_ending_connection_is_read_to_its_end(
    make_server: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that a client sends after the last request does not destroy the response."""
    for limit in ("_QUIET_SECONDS", "_LINGER_SECONDS"):
        monkeypatch.setattr(channel, limit, TIMEOUT)
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        eventually(lambda: any(c.lingering for c in server.http.channels), "the response is sent")
        connection.sendall(b"x" * 100_000)
        assert response_on(connection).json == {"status": "healthy"}


@pytest.mark.skipif(not hasattr(socket, "MSG_OOB"), reason="no urgent data")
def test_urgent_data_ends_a_connection(make_server: Make) -> None:
    """Urgent data would wake the server again and again."""
    server = make_server()
    with connect(server.url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        eventually(lambda: bool(server.http.channels), "it is connected")
        connection.send(b"!", socket.MSG_OOB)
        eventually(lambda: not server.http.channels, "the connection is closed")
