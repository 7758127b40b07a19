"""The states of peers, and how often they are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import Machine
from overtaken import overtaken
from support import eventually

from offgrid.peers.book import Book, Peer
from offgrid.peers.connection import PeerConnections
from offgrid.peers.errors import PeerProtocolError
from offgrid.peers.identity import load_identity
from offgrid.peers.table import JITTER, LONGEST, LOOKED_AT, LOOKING, USUAL, PeerTable


def wait_for_state(machine: Machine, state: str) -> None:
    def reached() -> bool:
        (known,) = machine.peers.table.look()
        return known.state == state

    eventually(reached, f"the peer is {state}")


@pytest.mark.slow
def test_a_peer_is_connected_then_unreachable_then_connected(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    wait_for_state(near, "connected")
    (known,) = near.peers.table.known()
    assert known.report is not None
    assert known.report.name == "far"
    assert known.last_seen is not None
    assert known.problem == ""
    far.server.stop()
    wait_for_state(near, "unreachable")
    (after,) = near.peers.table.known()
    assert after.report is not None  # what it said last
    assert after.report.models == known.report.models
    assert "far" in after.problem


@pytest.mark.slow
def test_a_peer_that_forgot_this_machine_is_refused_until_it_knows_it_again(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    wait_for_state(near, "connected")
    far.peers.book.remove(near.peers.identity.fingerprint)
    wait_for_state(near, "refused")
    far.peers.book.add(near.as_peer())
    near.peers.table.appeared(far.peers.identity.id)
    wait_for_state(near, "connected")


@pytest.mark.slow
def test_a_forgotten_peer_is_no_longer_asked(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    wait_for_state(near, "connected")
    near.peers.book.remove(far.peers.identity.fingerprint)
    assert near.peers.table.known() == []
    far.peers.book.remove(near.peers.identity.fingerprint)
    eventually(lambda: asking() == [], "no peer is asked")


def asking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "peer-status"]


@pytest.mark.slow
def test_the_end_of_a_server_ends_the_threads(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    wait_for_state(near, "connected")
    near.server.stop()
    far.server.stop()
    eventually(lambda: asking() == [], "no peer is asked")  # one that connects ends a little later


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def idle(make_machine: Callable[..., Machine]) -> Iterator[tuple[PeerTable, Clock]]:
    """A table that asks nobody, and its clock."""
    machine, clock = make_machine("near"), Clock()
    made = PeerConnections(machine.peers.identity, machine.peers.book)
    yield PeerTable(machine.peers.book, made, clock), clock
    made.close()


def test_pauses(idle: tuple[PeerTable, Clock]) -> None:
    table, clock = idle

    def about(seconds: float, failures: int) -> bool:
        pauses = [table.pause_after(failures) for _ in range(50)]
        assert len(set(pauses)) > 40  # machines that were started together do not stay together
        return all(abs(pause - seconds) <= JITTER * seconds for pause in pauses)

    assert about(USUAL, 0)
    assert about(LOOKED_AT, 1)  # it may know this machine in a moment
    assert about(USUAL, 2)
    assert about(2 * USUAL, 3)
    assert about(LONGEST, 100)
    table.look()
    assert about(LOOKED_AT, 0)
    assert about(LOOKED_AT, 100)
    clock.now += LOOKING + 1
    assert about(USUAL, 0)


@pytest.mark.parametrize("what", ["paired", "forgotten"])
def test_an_old_view_of_the_book_changes_nothing(tmp_path: Path, what: str) -> None:
    """A thread that follows a change is overtaken by another one, which follows a later change."""
    near = load_identity(tmp_path / "near", "near")
    book = Book(tmp_path / "near")
    first, second = (
        Peer(
            name=name, certificate=load_identity(tmp_path / name, name).certificate,
            addresses=(), port=1, paired_at=1,
        ) for name in ("first", "second")
    )  # fmt: skip
    book.add(first)
    connections = PeerConnections(near, Book(tmp_path / "near"))
    table = PeerTable(book, connections)
    table.start()
    try:
        if what == "forgotten":
            book.add(second)
        act = (lambda: book.add(second)) if what == "paired" else lambda: forget(book, second)
        with overtaken(book, table._lock, act):
            book.found_at(first.fingerprint, "127.0.0.9", 1)
        asked = {watch.known.peer.name for watch in table._watches.values()}
        assert asked == {peer.name for peer in book.all()}
    finally:
        connections.close()
        table.close()


def forget(book: Book, peer: Peer) -> None:
    assert book.remove(peer.fingerprint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body"), [(200, b"nonsense"), (200, b"{}"), (404, b"{}"), (500, b"")]
)
def test_an_answer_that_is_no_report_is_an_error(
    idle: tuple[PeerTable, Clock],
    make_machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: bytes,
) -> None:
    table, _ = idle
    peer: Peer = make_machine("far").as_peer()
    monkeypatch.setattr(PeerConnections, "request", lambda *_, **__: (status, body))
    with pytest.raises(PeerProtocolError, match="/peer/status"):
        table.ask(peer)
