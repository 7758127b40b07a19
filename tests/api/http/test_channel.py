"""Writes to a connection: sent at once, or kept in order for a client that reads slowly."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected

from offgrid.api.http.waitress.channel import Channel

LARGE = bytes(range(256)) * 8192
"""More than a socket takes that nobody reads."""


class Connection:
    """Both ends of a connection, and how often waitress's loop was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.client, end = socket.socketpair()
        # The loop's own calls are made by the tests.
        server: Any = SimpleNamespace(active_channels={}, pull_trigger=self._wake)
        self.channel = Channel(server, end, ("127.0.0.1", 1), Adjustments(), map={})
        self.client.setblocking(False)

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> bytes:
        """Read everything; the loop writes what was kept whenever there is room."""
        data = b""
        while True:
            try:
                data += self.client.recv(1 << 20)
            except BlockingIOError:
                if not self.channel.total_outbufs_len:
                    return data
                self.channel.handle_write()

    def close(self) -> None:
        self.client.close()
        self.channel.handle_close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    yield connection
    connection.close()


def test_a_token_is_sent_at_once(connection: Connection) -> None:
    assert connection.channel.write_soon(b"data: 1\n\n") == 9
    assert connection.client.recv(100) == b"data: 1\n\n"
    assert (connection.channel.total_outbufs_len, connection.woken) == (0, 0)


def test_what_has_no_room_is_kept_and_comes_in_order(connection: Connection) -> None:
    assert connection.channel.write_soon(LARGE) == len(LARGE)
    kept = connection.channel.total_outbufs_len
    assert 0 < kept < len(LARGE)
    assert connection.woken  # the loop waits for room
    connection.channel.write_soon(b"later")
    assert connection.channel.total_outbufs_len == kept + 5
    assert connection.read() == LARGE + b"later"
    connection.channel.write_soon(b"last")
    assert connection.read() == b"last"


def test_a_client_that_has_left(connection: Connection) -> None:
    """The loop notices it at its next write, and then no thread can write any more."""
    connection.client.close()
    assert connection.channel.write_soon(b"x") == 1
    connection.channel.handle_write()
    with pytest.raises(ClientDisconnected):
        connection.channel.write_soon(b"x")


@given(st.lists(st.binary(max_size=300_000), max_size=8))
def test_nothing_is_lost_or_overtaken(parts: list[bytes]) -> None:
    connection = Connection()
    for part in parts:
        assert connection.channel.write_soon(part) == len(part)
    assert connection.read() == b"".join(parts)
    connection.close()
