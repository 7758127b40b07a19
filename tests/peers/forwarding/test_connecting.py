"""How a forwarded request ends while its peer is still looked for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forwarded import report_of
from support import TIMEOUT

from offgrid.engine.client.client import ClientGone
from offgrid.errors import Overloaded, RequestTimeout
from offgrid.peers.book import Book, Peer
from offgrid.peers.connection import PeerConnections
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.peers.forwarding.known import Found
from offgrid.peers.forwarding.running import Outgoing
from offgrid.peers.identity import load_identity


class Search:
    """A request for a peer that is looked for at two places, where something accepts connections
    and says nothing."""

    def __init__(self, folder: Path, places: list[socket.socket]) -> None:
        self.places = places
        book = Book(folder / "near")
        self.connections = PeerConnections(load_identity(folder / "near", "near"), book)
        self.forwarding = Forwarding(self.connections, list)
        ports = [sock.getsockname()[1] for sock in places]
        far = load_identity(folder / "far", "far")
        self._peer = Peer(
            name="far", certificate=far.certificate, addresses=("127.0.0.1",), port=ports[0],
            paired_at=1,
        )  # fmt: skip
        book.add(self._peer)
        self.connections.places = lambda id: [("127.0.0.1", port) for port in ports]
        self._errors: list[BaseException] = []

    def send(self, outgoing: Outgoing) -> None:
        """Send a request."""
        self.forwarding.send([Found(self._peer, report_of("a").models[0], True)], outgoing)

    def error_after(self, act: Callable[[], None], outgoing: Outgoing) -> BaseException:
        """Return how a request ends if something happens while the first place is tried, which then
        fails."""

        def send() -> None:
            try:
                self.send(outgoing)
            except BaseException as ex:
                self._errors.append(ex)

        thread = threading.Thread(target=send)
        thread.start()
        with self.places[0].accept()[0] as tried:
            assert tried.recv(1)
            act()
        thread.join(TIMEOUT)
        (error,) = self._errors
        return error

    def has_gone_on(self) -> bool:
        """Whether the second place was tried."""
        self.places[1].setblocking(False)
        try:
            self.places[1].accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        places[0].settimeout(TIMEOUT)
        made = Search(tmp_path, places)
        yield made
        made.connections.close()


def outgoing(**fields: object) -> Outgoing:
    return Outgoing("POST", "/v1/completions", {}, b"{}", **fields)  # type: ignore[arg-type]


def test_a_client_that_leaves_ends_the_search(search: Search) -> None:
    listeners: list[Callable[[], None]] = []

    def gone(leave: Callable[[], None]) -> Callable[[], None]:
        listeners.append(leave)
        return lambda: listeners.remove(leave)

    error = search.error_after(lambda: listeners[0](), outgoing(gone=gone))
    assert isinstance(error, ClientGone)
    assert not search.has_gone_on()
    assert listeners == []


def test_a_client_of_which_nobody_tells_that_it_left_ends_it_too(search: Search) -> None:
    alive = [True]
    error = search.error_after(alive.clear, outgoing(alive=lambda: bool(alive)))
    assert isinstance(error, ClientGone)
    assert not search.has_gone_on()


def test_a_stop_of_the_server_waits_for_it_and_then_ends_it(search: Search) -> None:
    error = search.error_after(lambda: search.forwarding.drain(0), outgoing())
    assert isinstance(error, Overloaded)
    assert error.code == "server_shutting_down"
    assert not search.has_gone_on()
    search.forwarding.drain(TIMEOUT)  # nothing runs any more


def test_it_takes_no_longer_than_the_request_may(search: Search) -> None:
    def late() -> None:
        raise RequestTimeout("It has taken too long.")

    with pytest.raises(RequestTimeout):
        search.send(outgoing(late=late, deadline=time.monotonic() + 0.1))
