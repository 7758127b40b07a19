"""Connections to peers: which machine answers, when they are kept, and how they end."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from machines import Machine
from overtaken import overtaken
from support import TIMEOUT

from offgrid.peers import connection, identity
from offgrid.peers.book import Book, Peer
from offgrid.peers.connection import PeerConnection, PeerConnections, Place
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.errors import PeerProtocolError, PeerRefused, PeerUnreachable
from offgrid.peers.identity import load_identity
from offgrid.peers.response import PeerResponse
from offgrid.peers.table import ANSWER_SECONDS
from offgrid.peers.timed import TimedSocket
from offgrid.rpc.connection import connect as rpc_connect
from offgrid.rpc.endpoint import RpcServer

NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"


class Far:
    """A peer whose answers a test writes byte by byte."""

    def __init__(self, folder: Path, near: Peer) -> None:
        self.identity = load_identity(folder, "far")
        self.book = Book(folder)
        self.book.add(near)
        self._contexts = ServerContexts(self.identity, self.book)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT)
        self.port = int(self._listening.getsockname()[1])

    def as_peer(self, *addresses: str) -> Peer:
        return Peer(
            name="far", certificate=self.identity.certificate, port=self.port, paired_at=1,
            addresses=addresses or ("127.0.0.1",),
        )  # fmt: skip

    @contextlib.contextmanager
    def accept(self) -> Iterator[socket.socket]:
        plain, _ = self._listening.accept()
        plain.settimeout(TIMEOUT)
        with self._contexts.context.wrap_socket(plain, server_side=True) as sock:
            yield sock

    def answer(self, *answers: bytes) -> threading.Thread:
        """Answer requests of one connection, each with bytes; then close it."""

        def serve() -> None:
            with self.accept() as sock:
                for bytes_ in answers:
                    request = b""
                    while not request.endswith(b"\r\n\r\n"):
                        request += sock.recv(4096)
                    sock.sendall(bytes_)

        thread = threading.Thread(target=serve)
        thread.start()
        return thread

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[PeerConnections]:
    made = PeerConnections(load_identity(tmp_path / "near", "near"), Book(tmp_path / "near"))
    yield made
    made.close()


@pytest.fixture
def far(tmp_path: Path, connections: PeerConnections) -> Iterator[Far]:
    near = load_identity(tmp_path / "near", "near")
    made = Far(
        tmp_path / "far",
        Peer(name="near", certificate=near.certificate, addresses=(), port=1, paired_at=1),
    )
    Book(tmp_path / "near").add(made.as_peer())
    connections._book.reload()
    yield made
    made.close()


def ask(connections: PeerConnections, peer: Peer, method: str = "GET") -> tuple[int, bytes]:
    return connections.request(peer, method, "/peer/alive", timeout=TIMEOUT)


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make certificates that are not valid yet, as all are for a clock that starts at 1970."""
    later = datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc)
    monkeypatch.setattr(identity, "_NO_BEGIN", later)


def test_a_clock_that_is_wrong_keeps_no_peer_out(
    early: None, connections: PeerConnections, far: Far
) -> None:
    thread = far.answer(NOTHING)
    assert ask(connections, far.as_peer())[0] == 204
    thread.join()


def test_a_clock_that_is_wrong_keeps_no_lending_peer_out(
    early: None, connections: PeerConnections, far: Far
) -> None:
    near = connections._identity
    server = RpcServer(
        "far", ("127.0.0.1",), far.port, far.identity.certificate,
        str(near.certificate_file), str(near.key_file),
    )  # fmt: skip
    thread = far.answer(NOTHING)
    with contextlib.closing(rpc_connect(server)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(100) == NOTHING
    thread.join()


@pytest.mark.slow
def test_one_connection_serves_many_requests(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.peers.table.close()  # it would use the connection too
    near.know(far)
    made, peer = near.peers.connections, far.as_peer()
    used = []
    for _ in range(3):
        with made.open(peer, TIMEOUT) as connection:
            assert connection.request("GET", "/peer/alive").status == 204
        used.append(connection)
    assert used[0] is used[1] is used[2]
    with made.open(peer, TIMEOUT) as one, made.open(peer, TIMEOUT) as other:
        assert one is not other


@pytest.mark.slow
def test_a_peer_that_forgot_this_machine_refuses_it(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    assert ask(near.peers.connections, far.as_peer())[0] == 204
    far.peers.book.remove(near.peers.identity.fingerprint)
    for _ in range(5):  # on the open connection, and then on new ones
        with pytest.raises(PeerRefused, match="forgotten"):
            ask(near.peers.connections, far.as_peer())
    far.know(make_machine("third"))
    with pytest.raises(PeerRefused, match="Pair them again: offgrid peers pair"):
        ask(near.peers.connections, far.as_peer(), "POST")


@pytest.mark.slow
def test_another_machine_at_the_address_is_not_the_peer(
    make_machine: Callable[..., Machine],
) -> None:
    near, far, third = (make_machine(name) for name in ("near", "far", "third"))
    near.peers.table.close()  # its questions would keep a connection
    near.know(far)
    near.know(third)
    near.peers.connections.places = lambda id: ()  # far asks too, and says where it is
    moved = far.as_peer()
    near.peers.book.found_at(far.peers.identity.fingerprint, "127.0.0.1", third.peers.port)
    with pytest.raises(PeerUnreachable, match="another machine answers there"):
        ask(near.peers.connections, moved)
    near.peers.connections.places = lambda id: [("127.0.0.1", far.peers.port)]
    assert ask(near.peers.connections, moved)[0] == 204
    (known,) = (one for one in near.peers.book.all() if one.name == "far")
    assert known.port == far.peers.port  # where it has proved who it is


def test_addresses_are_tried_in_order_and_the_good_one_is_noted(
    connections: PeerConnections, far: Far
) -> None:
    fingerprint = far.identity.fingerprint
    connections._book.found_at(fingerprint, "127.0.0.2", far.port)  # nothing listens there
    thread = far.answer(NOTHING)
    assert ask(connections, far.as_peer())[0] == 204
    thread.join()
    (peer,) = connections._book.all()
    assert peer.addresses == ("127.0.0.1", "127.0.0.2")


def test_a_machine_that_is_off_is_unreachable_with_each_address(
    connections: PeerConnections, far: Far
) -> None:
    far.close()
    connections._book.found_at(far.identity.fingerprint, "127.0.0.2", far.port)
    with pytest.raises(PeerUnreachable) as told:
        ask(connections, far.as_peer())
    assert "127.0.0.1" in str(told.value)
    assert "127.0.0.2" in str(told.value)
    assert not told.value.is_sent


@pytest.fixture
def silent() -> Iterator[list[tuple[str, int]]]:
    """Three places at which something accepts connections and says nothing."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield [("127.0.0.1", sock.getsockname()[1]) for sock in made]


def test_each_place_comes_first_when_there_is_no_time_for_all(
    connections: PeerConnections, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time passes only while a place is silent."""
    silent = [("127.0.0.1", port) for port in (1, 2, 3)]
    now, connect = time.monotonic(), connections._connect_at

    def connect_at(peer: Peer, place: Place, seconds: float) -> tuple[TimedSocket, str]:
        nonlocal now
        if place not in silent:
            return connect(peer, place, seconds)
        now += seconds
        raise TimeoutError("timed out")

    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(connections, "_connect_at", connect_at)
    peer = far.as_peer()
    connections._book.found_at(peer.fingerprint, *silent[0])
    connections.places = lambda id: silent
    for place in [*silent, silent[0]]:
        with pytest.raises(PeerUnreachable) as told:
            connections.open(peer, 0.05)
        assert told.value.reason == f"127.0.0.1 port {place[1]}: no answer"
    connections.places = lambda id: [*silent, ("127.0.0.1", far.port)]
    for _ in silent[1:]:
        with pytest.raises(PeerUnreachable):
            connections.open(peer, 0.05)
    thread = far.answer(NOTHING)
    assert ask(connections, peer)[0] == 204
    thread.join()


def test_places_that_were_all_tried_keep_their_order(
    connections: PeerConnections, far: Far
) -> None:
    far.close()
    connections._book.found_at(far.identity.fingerprint, "127.0.0.2", far.port)
    for _ in range(3):
        with pytest.raises(PeerUnreachable) as told:
            connections.open(far.as_peer(), TIMEOUT)
        assert told.value.reason.startswith("127.0.0.2 ")


@pytest.mark.slow
def test_a_silent_place_leaves_time_for_the_next_one(
    connections: PeerConnections, far: Far, silent: list[tuple[str, int]]
) -> None:
    peer = far.as_peer()
    connections._book.found_at(peer.fingerprint, *silent[0])
    connections.places = lambda id: [("127.0.0.1", far.port)]
    thread = far.answer(NOTHING)
    assert connections.request(peer, "GET", "/peer/alive", timeout=ANSWER_SECONDS)[0] == 204
    thread.join()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_kept_connection_that_the_peer_closed_is_opened_again(
    connections: PeerConnections, far: Far, method: str
) -> None:
    first = far.answer(NOTHING)
    ask(connections, far.as_peer())
    first.join()  # it has closed the connection
    second = far.answer(NOTHING)
    assert ask(connections, far.as_peer(), method)[0] == 204
    second.join()


def test_a_post_that_may_have_arrived_is_not_sent_twice(
    connections: PeerConnections, far: Far
) -> None:
    thread = far.answer(NOTHING, b"")
    ask(connections, far.as_peer())
    with pytest.raises(PeerUnreachable) as told:
        ask(connections, far.as_peer(), "POST")
    assert told.value.is_sent
    thread.join()


def test_a_get_is_sent_again(connections: PeerConnections, far: Far) -> None:
    thread = far.answer(NOTHING, b"")
    ask(connections, far.as_peer())

    def answer_again() -> None:
        thread.join()
        far.answer(NOTHING).join()

    again = threading.Thread(target=answer_again)
    again.start()
    assert ask(connections, far.as_peer())[0] == 204
    again.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"nonsense\r\n\r\n", PeerProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort", PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", PeerUnreachable),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", PeerProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n", PeerProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"a" * 5000000, PeerProtocolError),
    ],
    ids=["no HTTP", "too short", "no last chunk", "no chunk", "no end", "long header", "too long"],
)
def test_an_answer_that_is_wrong_is_an_error(
    connections: PeerConnections, far: Far, answer: bytes, error: type[Exception]
) -> None:
    thread = _ignore_errors(far, answer)
    with pytest.raises(error):
        ask(connections, far.as_peer(), "POST")
    thread.join()


def _ignore_errors(far: Far, answer: bytes) -> threading.Thread:
    """Answer one request with bytes that the client may not read to their end."""

    def serve() -> None:
        with contextlib.suppress(OSError), far.accept() as sock:
            sock.recv(65536)
            sock.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_what_arrives_is_returned_at_once(connections: PeerConnections, far: Far) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    read = threading.Event()

    def serve() -> None:
        with far.accept() as sock:
            asked = b""
            while not asked.endswith(b"{}"):  # a close resets a connection with unread bytes
                asked += sock.recv(65536)
            sock.sendall(head + b"3\r\none\r\n")
            assert read.wait(TIMEOUT)
            sock.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    with connections.open(far.as_peer(), TIMEOUT) as connection:
        response = connection.request("POST", "/v1/completions", b"{}")
        assert response.read_some() == b"one"
        read.set()
        assert response.read_all() == b"two"
        assert response.reusable
    thread.join()


def test_another_thread_ends_a_wait(connections: PeerConnections, far: Far) -> None:
    errors: list[Exception] = []
    with contextlib.ExitStack() as stack:
        begun = threading.Thread(target=lambda: stack.enter_context(far.accept()))
        begun.start()
        connection = connections.open(far.as_peer(), TIMEOUT)
        begun.join()

        def wait() -> None:
            with pytest.raises(PeerUnreachable) as told, connection:
                connection.request("POST", "/v1/completions", b"{}")
            errors.append(told.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        connection.cancel()
        waiting.join(TIMEOUT)
        assert len(errors) == 1


def test_a_stop_ends_all_connections(connections: PeerConnections, far: Far) -> None:
    thread = far.answer(NOTHING)
    ask(connections, far.as_peer())
    connections.close()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    with pytest.raises(PeerUnreachable, match=r"no address|stopping"):
        connections.open(far.as_peer(), TIMEOUT)


def test_a_peer_that_is_forgotten_here_loses_its_connections(
    connections: PeerConnections, far: Far
) -> None:
    thread = far.answer(NOTHING)
    with connections.open(far.as_peer(), TIMEOUT) as connection:
        connection.request("GET", "/peer/alive")
        connections._book.remove(far.identity.fingerprint)
    thread.join(TIMEOUT)
    assert not connections._idle.get(far.identity.fingerprint)
    with pytest.raises(http.client.NotConnected):
        connection._http.request("GET", "/peer/alive")


def test_a_peer_that_is_forgotten_while_it_connects_gets_no_request(
    connections: PeerConnections, far: Far
) -> None:
    book, peer = connections._book, far.as_peer()

    def forgotten_meanwhile(*address: object) -> None:
        book.remove(peer.fingerprint)

    book.found_at = forgotten_meanwhile  # type: ignore[method-assign]
    with contextlib.ExitStack() as stack:
        begun = threading.Thread(target=lambda: stack.enter_context(far.accept()))
        begun.start()
        with pytest.raises(PeerUnreachable, match="has forgotten it"):
            connections.open(peer, TIMEOUT)
        begun.join()
    assert not connections._lent
    with pytest.raises(PeerUnreachable, match="has forgotten it"):
        connections.open(peer, TIMEOUT)


def test_an_old_view_of_the_book_ends_no_connection_to_a_new_peer(
    connections: PeerConnections, far: Far, tmp_path: Path
) -> None:
    """A thread that follows a change is overtaken by another one, which pairs a machine."""
    book = connections._book
    near = Peer(
        name="near",
        certificate=connections._identity.certificate,
        addresses=(),
        port=1,
        paired_at=1,
    )
    new = Far(tmp_path / "new", near)
    thread = new.answer(NOTHING)
    kept: list[PeerConnection] = []

    def pair_and_use() -> None:
        book.add(new.as_peer())
        with connections.open(new.as_peer(), TIMEOUT) as connection:
            connection.request("GET", "/peer/alive")
        kept.append(connection)

    with overtaken(book, connections._lock, pair_and_use):
        book.found_at(far.identity.fingerprint, "127.0.0.9", far.port)
    assert connections._idle[new.identity.fingerprint] == kept
    connections.close()
    thread.join()
    new.close()


def test_single_bytes_do_not_stretch_the_time(connections: PeerConnections, far: Far) -> None:
    """Each byte comes within the timeout, and the whole answer does not."""
    ended = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), far.accept() as sock:
            sock.recv(65536)
            sock.sendall(NOTHING)
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.02):
                sock.sendall(b"a")

    thread = threading.Thread(target=serve)
    thread.start()
    assert ask(connections, far.as_peer())[0] == 204  # so the handshake takes none of the time
    with pytest.raises(PeerUnreachable, match="does not answer"):
        connections.request(far.as_peer(), "GET", "/peer/status", timeout=0.5)
    ended.set()
    thread.join()


def test_a_large_body_fills_a_buffer(connections: PeerConnections, far: Far) -> None:
    body = bytes(range(256)) * 4000
    thread = far.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    with connections.open(far.as_peer(), TIMEOUT) as connection:
        response: PeerResponse = connection.request("GET", "/peer/models/a/files/0")
        buffer = memoryview(bytearray(1 << 20))
        assert response.read_into(buffer) == len(body)
        assert buffer[: len(body)] == body
        assert response.read_into(buffer) == 0
    thread.join()
