"""Writes to a connection: sent at once, or kept in order for a client that reads slowly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from connections import Connection
from hypothesis import given
from hypothesis import strategies as st
from waitress.channel import ClientDisconnected

LARGE = bytes(range(256)) * 8192
"""More than a socket takes that nobody reads."""


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
