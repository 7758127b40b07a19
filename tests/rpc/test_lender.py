"""Who reaches a machine that lends memory, and how far. The machines are processes on this one."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from processes import Child, alive
from rpc_workers import ADDRESS, MakeWorker, RpcWorker, pair, peer_of, rpc_workers
from support import eventually, no_threads

from offgrid.errors import RpcError
from offgrid.peers.book import Book
from offgrid.peers.identity import load_identity
from offgrid.peers.rpc import server_of
from offgrid.rpc.child import Child as Computing
from offgrid.rpc.child import Started, program_of
from offgrid.rpc.connection import ask, connect, status
from offgrid.rpc.endpoint import RpcServer
from offgrid.rpc.lender import Lender
from offgrid.rpc.messages import ALIVE, BEAT, BEATS_MISSED, Ask, read_line, send_line
from offgrid.rpc.tunnel import Tunnel

HELLO = bytes([14, 24, 0, 0, 0, 0, 0, 0, 0]) + bytes(24)
"""What ggml's client says first."""
OTHER_BUILD = "llama-cpp-python 0.3.35, ggml 0.25.2, RPC 6.9.9"


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeWorker]:
    folder = tmp_path_factory.mktemp("machines")
    with rpc_workers(folder, folder / "here" / "peers") as make:
        yield make


@pytest.fixture(scope="module")
def far(make: MakeWorker) -> RpcWorker:
    """A machine that lends to this one, ``here``."""
    return make("far")


@pytest.fixture(autouse=True)
def nothing_is_left(far: RpcWorker) -> Iterator[None]:
    yield
    eventually(far.is_idle, "no process computes any more")


def server(far: RpcWorker, name: str = "here") -> RpcServer:
    """The machine, as the one with this name knows it."""
    peers = far.folder / name / "peers"
    peer = Book(peers).find("far")
    assert peer is not None
    return server_of(load_identity(peers), peer, far.port)


def unpaired(far: RpcWorker, name: str) -> RpcServer:
    """The machine, as one sees it that it does not know."""
    peers = far.folder / name / "peers"
    load_identity(peers)
    Book(peers).add(peer_of(load_identity(far.peers, "far")))
    return server(far, name)


def last_beat(pulse: ssl.SSLSocket) -> str:
    """Exchange lines until the answer is not that the process lives; return that answer."""
    said = ""

    def look() -> bool:
        nonlocal said
        send_line(pulse, "")
        said = read_line(pulse, 60.0)
        return said != ALIVE

    eventually(look, "the session has ended")
    return said


def build(far: RpcWorker) -> str:
    return far.child.out.find(r"build +(\S.*)\n")[1]


@contextlib.contextmanager
def session(far: RpcWorker) -> Iterator[tuple[ssl.SSLSocket, str]]:
    """A session without a connection for ggml: its beats, and its id."""
    pulse, offer = ask(server(far), Ask("lend", build(far)), 60.0)
    with pulse:
        yield pulse, offer.session


def listening(child: Child) -> set[tuple[str, int]]:
    """Where a process and those that it has started listen."""
    own = psutil.Process(child.process.pid)
    every = [own, *own.children(recursive=True)]
    return {
        (one.laddr.ip, one.laddr.port)
        for process in every
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }


def test_only_the_port_with_tls_is_open_to_other_machines(far: RpcWorker) -> None:
    assert listening(far.child) == {(ADDRESS, far.port)}
    with session(far) as (_, id):
        # ggml's port waits for the one connection of the session.
        others = listening(far.child) - {(ADDRESS, far.port)}
        assert [address for address, _ in others] == ["127.0.0.1"]
        data, _ = ask(server(far), Ask("data", build(far), session=id), 60.0)
        with data:
            assert listening(far.child) == {(ADDRESS, far.port)}
            data.sendall(HELLO)
            data.settimeout(60.0)
            assert data.recv(8) == bytes([28, 0, 0, 0, 0, 0, 0, 0])


def test_bytes_of_ggml_without_tls_get_no_answer(far: RpcWorker) -> None:
    with socket.create_connection((ADDRESS, far.port), 60.0) as plain:
        plain.sendall(HELLO)
        with contextlib.suppress(ConnectionResetError):
            assert HELLO[:8] not in plain.recv(1024)  # at most an alert of TLS


def test_a_machine_without_a_certificate_says_nothing(far: RpcWorker) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((ADDRESS, far.port), 60.0) as plain,
        context.wrap_socket(plain) as connection,
        contextlib.suppress(ssl.SSLError, ConnectionError),
    ):
        # TLS 1.3 tells the client after its own handshake.
        send_line(connection, Ask("status"))
        assert connection.recv(1) == b""


def test_a_machine_that_is_not_paired_learns_nothing(far: RpcWorker) -> None:
    with pytest.raises(RpcError, match=r"cannot be (used|reached)"):
        status(unpaired(far, "stranger"), 60.0)


def test_a_machine_with_another_certificate_is_not_used(far: RpcWorker, tmp_path: Path) -> None:
    """Somebody else answers at the address of a peer."""
    other = load_identity(tmp_path / "peers")
    known = server(far)
    with pytest.raises(RpcError, match="TLS handshake failed"):
        connect(
            RpcServer(
                known.name, known.addresses, known.port, other.certificate, known.cert_file,
                known.key_file,
            )
        )  # fmt: skip


def test_the_banner_counts_the_devices(far: RpcWorker) -> None:
    banner = far.child.out.find(r"lends    \S+ \S+ of memory, (.*)\n")[1]
    assert re.fullmatch("1 device|([2-9]|1[0-6]) devices", banner)


def test_the_status_starts_nothing(far: RpcWorker) -> None:
    offer = status(server(far), 60.0)
    assert offer.build == build(far)
    assert offer.free > 0
    assert len(offer.devices) == 1
    assert far.is_idle()


def test_another_build_is_refused_with_both_versions(far: RpcWorker) -> None:
    with pytest.raises(RpcError) as caught:
        Tunnel(server(far), Ask("lend", OTHER_BUILD), print)
    assert build(far) in str(caught.value)
    assert OTHER_BUILD in str(caught.value)
    assert far.is_idle()


@pytest.mark.slow
def test_a_session_belongs_to_one_machine_and_has_one_connection(far: RpcWorker) -> None:
    pair(far.folder / "third" / "peers", far.peers)
    eventually(lambda: _can_ask(far, "third"), "the worker knows the third machine")
    with session(far) as (_, id):
        with pytest.raises(RpcError, match="no such session"):
            ask(server(far, "third"), Ask("data", build(far), session=id), 60.0)
        first, _ = ask(server(far), Ask("data", build(far), session=id), 60.0)
        with first, pytest.raises(RpcError, match="a connection already"):
            ask(server(far), Ask("data", build(far), session=id), 60.0)


def _can_ask(far: RpcWorker, name: str) -> bool:
    try:
        return bool(status(server(far, name), 60.0).build)
    except RpcError:
        return False


@pytest.mark.slow
def test_a_machine_that_is_forgotten_loses_its_session(far: RpcWorker) -> None:
    pair(far.folder / "fourth" / "peers", far.peers)
    eventually(lambda: _can_ask(far, "fourth"), "the worker knows the fourth machine")
    pulse, _ = ask(server(far, "fourth"), Ask("lend", build(far)), 60.0)
    with pulse:
        book = Book(far.peers)
        fourth = book.find("fourth")
        assert fourth is not None
        book.remove(fourth.fingerprint)
        assert last_beat(pulse) == "the machines are not paired any more"


def test_questions_that_it_does_not_know_are_refused(far: RpcWorker) -> None:
    with pytest.raises(RpcError, match="does not know the question"):
        ask(server(far), Ask("everything"), 60.0)


@pytest.mark.parametrize(
    "data", [b"{}\n", b"\xff\n", b"x" * 20_000], ids=["no question", "no JSON", "no line"]
)
def test_other_words_end_the_connection(far: RpcWorker, data: bytes) -> None:
    with connect(server(far)) as connection:
        connection.settimeout(60.0)
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1024) == b""
    assert status(server(far), 60.0).build


def test_a_process_that_ends_ends_the_session(far: RpcWorker) -> None:
    with session(far) as (pulse, _):
        far.lending().kill()
        assert "ended with status -9" in last_beat(pulse)


def test_a_machine_that_is_forgotten_is_told_what_to_do(far: RpcWorker) -> None:
    with pytest.raises(RpcError) as refused:
        status(unpaired(far, "forgotten"), 60.0)
    # TLS does not always deliver the reason before the end of the connection.
    assert re.search(
        r"(not know|forgotten) this machine[;,] pair the machines again$", str(refused.value)
    )


def test_each_second_without_an_answer_counts(
    far: RpcWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for an answer takes a second itself; there is no other one in between."""
    lost: list[str] = []
    tunnel = Tunnel(server(far), Ask("lend", build(far)), lost.append)
    waits: list[float] = []

    def silent(connection: socket.socket, seconds: float, begun: bytearray) -> str:
        waits.append(seconds)
        raise TimeoutError

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    try:
        monkeypatch.setattr(tunnel._closed, "wait", wait)
        monkeypatch.setattr("offgrid.rpc.tunnel.read_line", silent)
        tunnel._watch()
    finally:
        tunnel.close()
    assert lost == ["the RPC worker far does not answer any more"]
    assert sum(waits) == BEAT + BEATS_MISSED * BEAT


def test_an_answer_that_comes_in_two_parts_is_one_answer(
    far: RpcWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second ends between two bytes; a busy machine has reached only the first ones."""
    lost: list[str] = []
    tunnel = Tunnel(server(far), Ask("lend", build(far)), lost.append)
    near, peer = socket.socketpair()
    pulse = Torn(near.family, near.type, fileno=near.detach())

    def wait(seconds: float) -> bool:
        """Before each line of the borrower: the answer to it. The fourth is the end."""
        nonlocal beats
        if seconds:
            beats += 1
            if beats < 4:
                peer.sendall(b"alive\n")
            else:
                peer.shutdown(socket.SHUT_WR)
        return False

    beats = 0
    try:
        with monkeypatch.context() as patched:
            patched.setattr(tunnel._closed, "wait", wait)
            patched.setattr(tunnel, "_pulse", pulse)
            tunnel._watch()
    finally:
        tunnel.close()
        pulse.close()
        peer.close()
    assert beats == 4
    assert lost == ["the RPC worker far has closed the connection"]


class Torn(socket.socket):
    """A socket on which the time ends once, after two bytes."""

    reads = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.reads += 1
        if self.reads == 3:
            raise TimeoutError
        return super().recv(size, flags)


def test_another_program_does_not_get_into_a_tunnel(far: RpcWorker) -> None:
    """A connection of a process that is not the one with the tunnel is closed."""
    lost: list[str] = []
    tunnel = Tunnel(server(far), Ask("lend", build(far)), lost.append)
    tunnel.start()
    program = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        f"s.sendall({HELLO!r}); print(s.recv(1024))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tunnel.port)],
        capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    assert "b''" in done.stdout or "ConnectionResetError" in done.stderr
    with socket.create_connection((ADDRESS, tunnel.port), 60.0) as own:
        own.sendall(HELLO)
        assert own.recv(8) == bytes([28, 0, 0, 0, 0, 0, 0, 0])
        # Nothing listens any more.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ADDRESS, tunnel.port), 60.0)
        tunnel.close()
    assert lost == []


@pytest.mark.slow
def test_a_process_refuses_a_connection_that_came_before_its_parent(far: RpcWorker) -> None:
    """Another user of the lending machine was faster; the session is refused."""
    program = program_of(os.getpid(), f'{{"rpc_library": "{far.rpc_library}", "threads": 1}}')
    child = Computing(program, lambda line: None)
    try:
        with socket.create_connection((ADDRESS, child.started.port), 60.0) as other:
            other.sendall(HELLO)
            assert other.recv(8)
            with pytest.raises(RpcError, match="another program"):
                child.connect()
    finally:
        child.end()


@pytest.mark.slow
def test_it_stops_by_a_signal_and_leaves_no_process(make: MakeWorker) -> None:
    worker = make("ending")
    status_file = worker.peers / "rpc.json"
    eventually(status_file.exists, "its server can see what it lends")
    identity = load_identity(worker.folder / "here" / "peers")
    peer = Book(worker.folder / "here" / "peers").find("ending")
    assert peer is not None
    pulse, _ = ask(server_of(identity, peer, worker.port), Ask("lend", build(worker)), 60.0)
    lending = worker.lending()
    worker.child.process.terminate()
    assert worker.child.wait() == 0
    with pulse:
        pulse.settimeout(60.0)
        with contextlib.suppress(OSError):
            assert pulse.recv(1) == b""
    eventually(lambda: not alive(lending), "nothing computes")
    assert not status_file.exists()


@pytest.mark.parametrize("thread", ["rpc-child", "rpc-child-log"])
def test_no_process_is_left_if_the_system_has_no_threads(
    monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    no_threads(monkeypatch, thread)
    made: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(start(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(RpcError, match="the system cannot start a thread"):
        Computing([sys.executable, "-c", "input()"], lambda line: None)
    (process,) = made
    assert process.returncode is not None


def test_sessions_that_are_being_started_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """To start one takes a while, and others may ask meanwhile."""
    monkeypatch.setattr("offgrid.rpc.lender.MAX_SESSIONS", 1)
    one, other = socket.socketpair()
    begun: list[str] = []

    def lend(name: str) -> None:
        connection: Any = one
        lender._lend(connection, Ask("lend"), name, name, lambda: None)

    def starting(folder: str) -> Computing:
        begun.append(folder)
        with pytest.raises(RpcError, match="it lends memory for 1 models already"):
            lend("second")
        raise RpcError("this one does not start")

    terms: Any = SimpleNamespace(
        started=Started(), tensors=lambda *_: contextlib.nullcontext("folder"), start=starting
    )
    with one, other:
        lender = Lender(one, terms)
        for _ in range(2):  # its place is free again
            with pytest.raises(RpcError, match="does not start"):
                lend("first")
    assert begun == ["folder"] * 2
