"""Addresses of a peer at which it is not, or not any more."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rpc_library import rpc_library
from rpc_workers import RpcWorker, lender_here
from support import TIMEOUT, eventually

from offgrid.errors import RpcError
from offgrid.peers.book import Book
from offgrid.peers.identity import load_identity
from offgrid.peers.rpc import server_of
from offgrid.rpc import connection as module
from offgrid.rpc.connection import connect, status
from offgrid.rpc.messages import Ask
from offgrid.rpc.tunnel import Tunnel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs 127.0.0.2, and a full queue that drops connections"
)

OTHERS = [f"127.0.0.{number}" for number in range(2, 9)]


@contextlib.contextmanager
def silent(port: int, *addresses: str) -> Iterator[None]:
    """Let addresses answer nothing, as if no machine were there: their queues are full."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(socket.create_server((address, port), backlog=0))
            for _ in range(4):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                assert one.connect_ex((address, port)) in (0, errno.EINPROGRESS)
        yield


class Rude:
    """A machine that ends each connection."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._came: list[object] = []

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, source = self._listener.accept()
                self._came.append(source)
                one.close()

    @property
    def came(self) -> int:
        """How many connections were made until now. They are accepted in this order."""
        with socket.create_connection(self._listener.getsockname(), TIMEOUT) as last:
            own = last.getsockname()
            eventually(lambda: own in self._came, "all are accepted")
        return self._came.index(own)


@contextlib.contextmanager
def rude(port: int, address: str) -> Iterator[Rude]:
    """Run such a machine while the block runs."""
    with socket.create_server((address, port)) as listener:
        made = Rude(listener)
        thread = threading.Thread(target=made.serve)
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_addresses_without_a_machine_do_not_hide_the_one_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would take all the time."""
    monkeypatch.setattr(module, "_HEAD_START", 0.01)
    with lender_here(tmp_path) as (_, far), silent(far.port, *OTHERS):
        known = msgspec.structs.replace(far, addresses=(*OTHERS, "127.0.0.1"))
        assert status(known, TIMEOUT).build


def test_all_addresses_together_have_one_time(tmp_path: Path) -> None:
    with lender_here(tmp_path) as (_, far), silent(far.port, *OTHERS):
        known = msgspec.structs.replace(far, addresses=tuple(OTHERS))
        with pytest.raises(RpcError, match=r"cannot be reached on port \d+ \(no answer\)"):
            connect(known, 0.02)


@pytest.mark.slow
def test_a_machine_that_says_nothing_leaves_time_for_other_addresses(tmp_path: Path) -> None:
    with (
        lender_here(tmp_path) as (_, far),
        socket.create_server(("127.0.0.2", far.port)),  # accepts, and does not answer
    ):
        known = msgspec.structs.replace(far, addresses=("127.0.0.2", "127.0.0.1"))
        connect(known, 3.0).close()


def test_another_machine_at_an_address_does_not_hide_the_peer(tmp_path: Path) -> None:
    with lender_here(tmp_path) as (_, far), rude(far.port, "127.0.0.2") as other:
        known = msgspec.structs.replace(far, addresses=("127.0.0.2", "127.0.0.1"))
        assert status(known, TIMEOUT).build
        assert other.came == 1


@pytest.mark.slow
def test_the_second_connection_goes_where_the_first_one_was_made(tmp_path: Path) -> None:
    """The lender expects beats meanwhile."""
    here = tmp_path / "here" / "peers"
    worker = RpcWorker(tmp_path, "far", here, rpc_library())
    try:
        peer = Book(here).find("far")
        assert peer is not None
        far = server_of(load_identity(here), peer, worker.port)
        build = worker.child.out.find(r"build +(\S.*)\n")[1]
        with rude(far.port, "127.0.0.2") as other:
            known = msgspec.structs.replace(far, addresses=("127.0.0.2", "127.0.0.1"))
            Tunnel(known, Ask("lend", build), print).close()
            assert other.came == 1
    finally:
        worker.kill()
