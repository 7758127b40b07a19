"""A server with keys, limits and figures: what these might open to people without a key."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lasting
import psutil
import pytest
from keyed import bearer, new_key, sending
from lasting import Kept, write_lasting
from processes import Child, all_stopped
from served import connect, served
from support import STARTER, TIMEOUT, Json, eventually, request

TEXT = "/v1/completions"
SHORT = {"model": STARTER, "prompt": "Once", "max_tokens": 2}
MIB = 1 << 20
Serve = Callable[..., Child]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    return new_key(tmp_path / "keys.sqlite3", "ward", "admin")[1]


@pytest.fixture
def server(tmp_path: Path, secret: str) -> Iterator[Child]:
    """A server that needs a key; its temporary files are in the test's folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        flags = ("--keys-file", str(tmp_path / "keys.sqlite3"), "--parallel", "2")
        with served(tmp_path, *flags) as child:
            yield child


@pytest.mark.slow
def test_requests_of_this_process_have_the_key(server: Child, secret: str) -> None:
    """The attacks of this folder that are repeated with keys do arrive."""
    raw = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def statuses() -> list[int]:
        found = [request(server.url, "GET", "/v1/models").status]
        with connect(server) as sock:
            sock.sendall(raw)
            found.append(int(sock.recv(12)[9:]))
        return found

    assert statuses() == [401, 401]
    with sending(secret):
        assert statuses() == [200, 200]
    assert statuses() == [401, 401]


def kept_on_disk(process: psutil.Process, folder: Path) -> int:
    """Bytes in open files of a folder, also in those that have no name any more."""
    size = 0
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry).startswith(str(folder)):
                size += entry.stat().st_size
    return size


def post_large(server: Child, number: int) -> int:
    """Send 8 MiB with a wrong key; return the status, or 0 if the connection was closed."""
    head = (
        f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {8 * MIB}\r\n"
        f"Authorization: Bearer wrong{number}\r\n\r\n"
    )
    with connect(server) as sock, contextlib.suppress(OSError, http.client.HTTPException):
        with contextlib.suppress(OSError):
            sock.sendall(head.encode())
            for _ in range(8):
                sock.sendall(bytes(MIB))
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            return response.status
    return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_many_large_bodies_with_wrong_keys(server: Child, secret: str, tmp_path: Path) -> None:
    """E11: a hundred at once are refused after their heads. They take no memory and no disk, and
    a holder of a key is served meanwhile."""
    process = psutil.Process(server.process.pid)
    key = bearer(secret)
    assert request(server.url, "POST", TEXT, SHORT, key).status == 200
    before = process.memory_info().rss
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(post_large(server, n)))
        for n in range(100)
    ]
    for thread in threads:
        thread.start()
    worst = disk = 0
    while any(thread.is_alive() for thread in threads):
        worst = max(worst, process.memory_info().rss)
        disk = max(disk, kept_on_disk(process, tmp_path / "temporary"))
        assert request(server.url, "POST", TEXT, SHORT, key).status == 200
    for thread in threads:
        thread.join(TIMEOUT)
    assert set(answers) <= {401, 429, 0}
    assert {401, 429} <= set(answers)
    assert worst < before + 64 * MIB
    assert disk == 0
    assert len(server.err.text) < 20_000
    assert "wrong1" not in server.err.text


@pytest.mark.slow
def test_figures_while_nothing_is_free(
    serve: Serve, models: Path, tmp_path: Path, secret: str
) -> None:
    """Slots, queue and places are taken, then the worker is stopped too: figures are answered,
    and others without a key are refused as always."""
    write_lasting(models)
    child = serve(
        "--parallel", "1", "--queue-size", "1", "--max-models", "1", *lasting.FLAGS,
        "--keys-file", str(tmp_path / "keys.sqlite3"),
    )  # fmt: skip
    url = child.wait_ready()
    worker = child.worker()

    def look() -> None:
        for path in ("/metrics", "/v1/stats"):
            assert request(url, "GET", path, headers=bearer(secret)).status == 200
            assert request(url, "GET", path).status == 401
        assert request(url, "GET", "/health").status == 200
        assert request(url, "GET", "/ready").status in (200, 503)

    def stats() -> Json:
        found: Json = request(url, "GET", "/v1/stats", headers=bearer(secret)).json
        return found

    def taken() -> tuple[int, int]:
        (model,) = stats()["models"]
        return model["running"], model["waiting"]

    def full() -> bool:
        """Whether a lookup was refused: nothing else answers one while the worker is stopped."""
        readable, _, _ = select.select(lookups, [], [], 0)
        return bool(readable)

    def send(path: str, body: bytes) -> socket.socket:
        sock = opened.enter_context(contextlib.closing(connect(child)))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        return sock

    with contextlib.ExitStack() as opened:
        with sending(secret):
            running = opened.enter_context(Kept(url, TEXT, lasting.BODY))
            send(TEXT, b'{"prompt":"Once","stream":true}')
        eventually(lambda: taken() == (1, 1), "one runs and one waits")
        refused = request(url, "POST", TEXT, {**SHORT, "model": "lasting"}, bearer(secret))
        assert (refused.status, refused.json["error"]["code"]) == (503, "server_busy")
        look()
        worker.suspend()
        eventually(lambda: all_stopped(worker.pid), "it has stopped")
        with sending(secret):
            lookups = [send("/tokenize", b'{"content":"a"}') for _ in range(40)]
        eventually(full, "all places of the key are taken")
        look()
        assert not running.ended
        worker.resume()
    eventually(lambda: taken() == (0, 0) and stats()["places"]["taken"] == 0, "all is free")
