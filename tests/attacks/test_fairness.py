"""Attack 23: one client keeps many requests in flight, and repeats refused ones at once.

The slots are busy with answers that end only when the test ends them, so the order in which
answers begin does not depend on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from keyed import new_key
from processes import Child, Lines
from scripted_model import write
from support import TIMEOUT, eventually

from offgrid.api.http import owner
from offgrid.server import Server

CONTEXT = 1 << 18
"""Tokens of an answer that the test ends. An answer of the starter ends by itself in seconds."""
ENDLESS = {"model": "lasting", "prompt": "Once", "ignore_eos": True, "stream": True}
SHORT = {
    "model": "lasting", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1,
    "stream": True,
}  # fmt: skip
IN_FLIGHT = 24


def post(sock: socket.socket, path: str, body: object, key: str = "") -> None:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    key = f"Authorization: Bearer {key}\r\n" if key else ""
    sock.sendall(f"{head}{key}\r\n".encode() + data)


class Greedy:
    """A client with many requests in flight, in one process. ``send`` begins one more."""

    def __init__(self, url: str, key: str = "") -> None:
        self._address = urlsplit(url)
        self._key = key
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.running: list[socket.socket] = []
        """Connections whose answer has begun, in that order."""
        self.begun = 0
        self.refusals = 0
        self.unexpected: list[bytes] = []
        """What came instead of an answer or a refusal."""
        self.waits: set[str] = set()
        """Values of ``Retry-After``."""
        self.threads = [threading.Thread(target=self._repeat) for _ in range(IN_FLIGHT)]

    def fill(self) -> None:
        """Fill all places, and go on asking."""
        for thread in self.threads:
            thread.start()
        eventually(
            lambda: bool(self.unexpected) or (self.begun >= 2 and self.refusals > 20),
            "all places are taken",
        )
        assert not self.unexpected
        assert self.begun == 2

    def _repeat(self) -> None:
        """Ask until an answer begins, however often the server refuses. Read it to its end."""
        with contextlib.suppress(OSError):  # the server has ended
            while not self._stopped.is_set():
                with self._connect() as sock:
                    if self._ask(sock):
                        while sock.recv(1 << 16):
                            pass
                        return

    def _connect(self) -> socket.socket:
        return socket.create_connection(
            (self._address.hostname or "", self._address.port or 0), TIMEOUT
        )

    def _ask(self, sock: socket.socket) -> bool:
        """Send one request; return whether its answer has begun."""
        post(sock, "/v1/completions", ENDLESS, self._key)
        head = b""
        while b"data: " not in head and b"server_busy" not in head:
            more = sock.recv(4096)
            if not more:
                if not self._stopped.is_set():
                    self.unexpected.append(head)
                raise ConnectionError
            head += more
        with self._lock:
            if b"server_busy" in head:
                self.refusals += 1
                self.waits |= set(re.findall(r"Retry-After: (.*)\r", head.decode()))
                return False
            self.begun += 1
            self.running.append(sock)
        return True

    def end_one(self) -> None:
        """Leave the oldest answer."""
        with self._lock:
            self.running.pop(0).shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._stopped.set()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(TIMEOUT)


@contextlib.contextmanager
def greedy_client(server: Child | Server, key: str = "") -> Iterator[Greedy]:
    """Yield a client that has taken all places. The server ends with it."""
    greedy = Greedy(server.url, key)
    try:
        greedy.fill()
        yield greedy
    finally:
        greedy.stop()
        server.end() if isinstance(server, Child) else server.stop()
        greedy.join()


class Other:
    """Another program of this machine. It asks for a short chat as a stream."""

    def __init__(self, server: Child | Server, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        code = (
            "import urllib.request as r\n"
            f"q = r.Request({server.url + '/v1/chat/completions'!r}, "
            f"{json.dumps(SHORT).encode()!r}, {headers!r})\n"
            "for line in r.urlopen(q): print(line.decode(), end='', flush=True)"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.out.close()
        self.err.close()


FLAGS = (
    "--parallel", "2", "--queue-size", "19", "--ctx-size", str(CONTEXT), "--max-models", "1",
    "--threads", "1", "--no-drafts", "--sse-ping-interval", "0.1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def lasting(models: Path) -> None:
    """A model whose answers fill the context."""
    write(models / "lasting.gguf", "", (), "on and on", context=CONTEXT)


@pytest.fixture
def server(serve: Callable[..., Child]) -> Child:
    child = serve(*FLAGS)
    child.wait_ready()
    return child


def check_turn(greedy: Greedy, other: Other) -> None:
    """Check that the other client's chat is queued and gets the next slot."""
    try:
        other.out.find(r": queued 1 of [1-9]")
        greedy.end_one()
        other.out.find(r"data: \[DONE\]")
        # One slot was free for the chat, and after it for an answer of the greedy client.
        assert greedy.begun <= 3
        assert greedy.waits <= {str(seconds) for seconds in range(1, 61)}
    finally:
        greedy.stop()
        other.end()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which program connects")
def test_another_program_gets_the_next_slot(server: Child) -> None:
    """Attack 23: both have the same address, and no key."""
    with greedy_client(server) as greedy:
        check_turn(greedy, Other(server))


@pytest.mark.slow
def test_programs_are_told_apart_by_the_keys_that_they_send(
    make_server: Callable[..., Server], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 23, where the system does not tell which program connects: the server needs no keys,
    but clients send some."""
    monkeypatch.setattr(owner._programs, "find", lambda address, port: None)
    server = make_server(
        models_dir=models, parallel=2, queue_size=19, ctx_size=CONTEXT, max_models=1,
        drafts=False, sse_ping_interval=0.1,
    )  # fmt: skip
    with greedy_client(server, "sk-greedy") as greedy:
        check_turn(greedy, Other(server, "sk-other"))


@pytest.mark.slow
def test_another_key_gets_the_next_slot(serve: Callable[..., Child], tmp_path: Path) -> None:
    """Attack 23, where the server needs keys and its limits are in force."""
    file = tmp_path / "keys.sqlite3"
    greedy_key, other_key = (new_key(file, name, "inference")[1] for name in ("greedy", "other"))
    server = serve(*FLAGS, "--keys-file", str(file), "--requests-per-minute", "1000000")
    server.wait_ready()
    with greedy_client(server, greedy_key) as greedy:
        check_turn(greedy, Other(server, other_key))
