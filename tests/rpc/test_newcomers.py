"""Connections that use up a lender's places: those of strangers, and those of peers."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import pytest
from rpc_workers import ADDRESS, lender_here
from support import TIMEOUT, eventually

from offgrid.errors import RpcError
from offgrid.rpc import lender
from offgrid.rpc.connection import connect, status
from offgrid.rpc.newcomers import MOST, MOST_OF_ONE

ONE_MACHINE = [ADDRESS] * 100
MANY_MACHINES = [f"127.0.1.{number}" for number in range(100)]


@pytest.mark.parametrize(
    "sources",
    [
        ONE_MACHINE,
        pytest.param(
            MANY_MACHINES,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.1.1"),
        ),
    ],
    ids=["one machine", "many machines"],
)
def test_strangers_that_say_nothing_do_not_keep_peers_out(
    tmp_path: Path, sources: list[str]
) -> None:
    with lender_here(tmp_path) as (_, far), contextlib.ExitStack() as stack:
        place = (ADDRESS, far.port)
        for source in sources:
            stack.enter_context(
                socket.create_connection(place, TIMEOUT, source_address=(source, 0))
            )
        assert status(far, TIMEOUT).build


@pytest.mark.parametrize(
    ("sources", "expected"),
    [(ONE_MACHINE, 100 - MOST_OF_ONE), (MANY_MACHINES, 100 - MOST)],
    ids=["one machine", "many machines"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.1.1")
def test_those_end_that_have_waited_longest(
    tmp_path: Path, sources: list[str], expected: int
) -> None:
    with lender_here(tmp_path) as (_, far), contextlib.ExitStack() as stack:
        place = (ADDRESS, far.port)
        opened = [
            stack.enter_context(
                socket.create_connection(place, TIMEOUT, source_address=(source, 0))
            )
            for source in sources
        ]
        for one in opened[:expected]:
            assert one.recv(1) == b""
        for one in opened[expected:]:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)


def test_a_peer_is_told_that_there_are_too_many_connections_of_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lender, "_MAX_CONNECTIONS", 2)
    with lender_here(tmp_path) as (_, far), connect(far), connect(far):

        def is_refused() -> bool:
            try:
                return not status(far, TIMEOUT).build
            except RpcError as ex:
                return "its peers have 2 connections to it already" in str(ex)

        eventually(is_refused, "both connections have a place")
