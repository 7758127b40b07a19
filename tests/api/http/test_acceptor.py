"""Which connection is closed for a new one, and what happens when the system has no file left."""

from __future__ import annotations

import errno
import http.client
import itertools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connections import Connection
from support import STARTER, endless, eventually, request

from offgrid.api.http.waitress import acceptor as accepting
from offgrid.api.http.waitress import channel as channels
from offgrid.api.http.waitress import server as servers
from offgrid.api.http.waitress.acceptor import longest_waiting
from offgrid.api.http.waitress.channel import Channel, Reading
from offgrid.server import Server

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
_BODY = b'{"model": "%s", "prompt": "Once", "max_tokens": 1}' % STARTER.encode()
COMPLETION = HEAD.replace(b"100", str(len(_BODY)).encode()) + _BODY
LIMIT = 16
"""Connections of a small server; an address gets 12 of them."""


@pytest.fixture
def small(make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with few connections."""
    monkeypatch.setattr(servers, "_MAX_CONNECTIONS", LIMIT)
    return make_server()


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Connections that are closed after the test."""
    opened: list[socket.socket] = []
    yield opened
    for sock in opened:
        sock.close()


def connect(server: Server, address: str = "127.0.0.1", data: bytes = b"") -> socket.socket:
    """Open a connection from one of this machine's loopback addresses."""
    sock = socket.create_connection(("127.0.0.1", server.port), 120, (address, 0))
    sock.sendall(data)
    return sock


def ended(sock: socket.socket) -> bool:
    """Whether the server has closed a connection to which it has sent nothing."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def groups(server: Server) -> list[str]:
    return sorted(channel.group for channel in server.http.channels)


def test_the_oldest_connection_of_the_largest_address_is_closed(
    small: Server, sockets: list[socket.socket]
) -> None:
    """E6: clients that hold connections lock out nobody, and lose their own oldest ones."""
    quiet = connect(small, "127.0.0.3")
    sockets.append(quiet)
    for number in range(40):
        sockets.append(connect(small, "127.0.0.2", HEAD[: 20 if number % 2 else None]))
    eventually(lambda: ended(sockets[1]), "the oldest one is closed")
    assert request(small.url, "GET", "/health").status == 200
    assert not ended(quiet)
    assert not ended(sockets[-1])
    assert groups(small).count("127.0.0.2") == LIMIT * 3 // 4


def test_a_full_table_makes_room_for_every_address(
    small: Server, sockets: list[socket.socket]
) -> None:
    for number in range(2, 2 + 2 * LIMIT):
        sockets.append(connect(small, f"127.0.0.{number}"))
        eventually(lambda n=number: f"127.0.0.{n}" in groups(small), "it is accepted")
    assert len(small.http.channels) == LIMIT
    assert request(small.url, "GET", "/health").status == 200


def test_requests_that_are_answered_stay(
    small: Server, sockets: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """Twelve requests are the share of their address: it gets no more, and others do."""
    (engine,) = small.pool.loaded()
    engine.wait_ready()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        for _ in range(LIMIT * 3 // 4):
            sockets.append(connect(small, data=COMPLETION))
        eventually(lambda: busy(small) == LIMIT * 3 // 4, "all are being answered")
        refused = request(small.url, "GET", "/health")
        assert (refused.status, refused.json["error"]["code"]) == (503, "server_busy")
        assert refused.headers["retry-after"] == "5"
        other = http.client.HTTPConnection("127.0.0.1", small.port, source_address=("127.0.0.2", 0))
        other.request("GET", "/health")
        assert other.getresponse().status == 200
        other.close()
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    for sock in sockets:
        assert sock.recv(12) == b"HTTP/1.1 200"
    assert len([r for r in caplog.records if "new ones are refused" in r.getMessage()]) == 1


def busy(server: Server) -> int:
    return sum(bool(channel.requests) for channel in server.http.channels)


@pytest.mark.slow
def test_no_file_is_left(small: Server, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """E8: the server neither spins nor fills the log, and goes on when there are files again."""
    (acceptor,) = [one for one in small.http._sockets.values() if hasattr(one, "share")]
    tried: list[float] = []
    left = 3
    accept = type(acceptor).accept

    def none_left(self: Any) -> Any:
        nonlocal left
        tried.append(time.monotonic())
        if left:
            left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    idle = connect(small)
    eventually(lambda: len(small.http.channels) == 1, "it is accepted")
    monkeypatch.setattr(type(acceptor), "accept", none_left)
    with caplog.at_level(logging.WARNING):
        assert request(small.url, "GET", "/health").status == 200
    assert len(tried) == 4
    assert all(b - a >= accepting._PAUSE for a, b in itertools.pairwise(tried))
    assert len([r for r in caplog.records if "no connection can be accepted" in r.message]) == 1
    eventually(lambda: ended(idle), "an idle connection was closed")
    idle.close()


@pytest.mark.slow
@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_the_clock_of_the_system_may_jump(
    small: Server, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Fault suite: a jump of a day neither closes connections nor keeps idle ones for a day."""
    (acceptor,) = [one for one in small.http._sockets.values() if hasattr(one, "share")]
    sock = connect(small)
    eventually(lambda: len(small.http.channels) == 1, "it is accepted")
    (channel,) = small.http.channels
    now, mono = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    acceptor.maintenance(time.monotonic())
    assert not channel.will_close
    acceptor.maintenance(mono + 60)
    assert channel.will_close
    eventually(lambda: ended(sock), "the idle connection is closed")
    sock.close()


# --- one connection, without a server -------------------------------------------------------------


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    yield connection
    connection.close()


def test_a_client_that_reads_nothing(connection: Connection) -> None:
    """E9: it is noticed by the clock of the server, also where TCP does not tell."""
    channel, now = connection.channel, time.monotonic()
    channel.write_soon(bytes(1 << 20))
    assert not channel.is_stalled(now)
    assert not channel.is_waiting(now)
    assert channel.is_waiting(now + channels._UNMOVED_SECONDS + 1)
    assert not channel.is_stalled(now + channels._STALLED_SECONDS - 1)
    assert channel.is_stalled(now + channels._STALLED_SECONDS + 1)


def test_a_client_that_reads_everything(connection: Connection) -> None:
    channel, now = connection.channel, time.monotonic()
    for step in range(100):
        channel.write_soon(bytes(1 << 20))
        connection.read()
        assert not channel.is_stalled(now + 10 * step)
    assert channel.is_waiting(now)


def test_a_client_that_reads_next_to_nothing() -> None:
    """One byte now and then does not keep a thread."""
    for rate, stalled in ((1, True), (channels._LEAST_READ // 55, False)):
        reading, now = Reading(0.0), 0.0
        found = False
        for _ in range(70):
            now += 1
            reading.sent += rate
            found = found or reading.is_stalled(now, 1000)
        assert found is stalled, rate


def test_a_client_that_has_read_everything_begins_anew() -> None:
    reading = Reading(0.0)
    assert not reading.is_stalled(1.0, 100)
    assert not reading.is_stalled(19.0, 0)
    assert not reading.is_stalled(38.0, 100)
    assert reading.is_stalled(39.0, 100)


@pytest.mark.slow
def test_the_thread_and_the_slot_of_a_reader_that_stops(
    small: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E9: a stream whose client reads nothing ends, and everything that it held is free."""
    body = json.dumps(endless(max_tokens=400, logprobs=20)).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", small.port))
        sock.sendall(HEAD.replace(b"100", str(len(body)).encode()) + body)
        assert sock.recv(12) == b"HTTP/1.1 200"
        monkeypatch.setattr(channels, "_STALLED_SECONDS", 0.1)
        eventually(lambda: not small.http.channels, "its connection is closed")
        eventually(lambda: not any(c.in_flight for c in small.pool.loaded()), "its slot is free")
    assert request(small.url, "GET", "/health").status == 200


class Slow:
    """A request that arrives at a rate."""

    error = None

    def __init__(self, rate: float | None) -> None:
        self._rate = rate

    def rate(self, now: float) -> float | None:
        return self._rate


@pytest.mark.parametrize(
    ("requests", "unfinished", "waiting"),
    [
        ([], None, True),  # idle
        ([], Slow(None), True),  # new
        ([], Slow(100.0), True),
        ([], Slow(1e6), False),  # a large body that arrives fast
        ([object()], None, False),  # a thread answers it
        ([object()], Slow(1.0), False),
    ],
)
def test_connections_that_may_be_closed(
    connection: Connection, requests: list[Any], unfinished: Any, waiting: bool
) -> None:
    channel = connection.channel
    channel.requests, channel.request = requests, unfinished
    assert channel.is_waiting(time.monotonic()) is waiting
    assert longest_waiting([channel], time.monotonic()) is (channel if waiting else None)
    channel.requests, channel.request = [], None


def test_the_one_that_waits_longest(connection: Connection) -> None:
    other = Connection()
    channel: Channel = connection.channel
    other.channel.since = channel.since - 1
    now = time.monotonic()
    assert longest_waiting([channel, other.channel], now) is other.channel
    other.channel.requests = [object()]
    assert longest_waiting([channel, other.channel], now) is channel
    assert longest_waiting([], now) is None
    other.channel.requests = []
    other.close()


def test_a_client_that_ends_its_side_counts_as_gone(small: Server) -> None:
    """A one-way close: the answer is not computed for a client that may never read it."""
    body = b'{"model": "%s", "prompt": "Once", "ignore_eos": true}' % STARTER.encode()
    head = HEAD.replace(b"100", str(len(body)).encode())
    with connect(small, data=head + body) as sock:
        eventually(lambda: any(c.in_flight for c in small.pool.loaded()), "it runs")
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: not any(c.in_flight for c in small.pool.loaded()), "it has ended")
        eventually(lambda: not small.http.channels, "the connection is closed")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Have this process hold so many files that the next has a number above 1,024."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_with_a_number_that_select_cannot_watch(
    server: Server, many_files: None, sockets: list[socket.socket]
) -> None:
    """E7: ``select`` takes numbers below 1,024 only."""
    sockets.append(connect(server))
    assert sockets[0].fileno() > 1024
    for _ in range(2):
        assert request(server.url, "GET", "/health").status == 200
    sockets[0].sendall(COMPLETION)
    assert sockets[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
