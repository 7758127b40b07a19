"""A client that is gone, at every stage of its request: everything that it held becomes free.

``tests/api/test_many_clients.py`` looks at the same inside of a server.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import lasting
import pytest
from lasting import Kept, write_lasting
from processes import Child
from served import complete, connect, descriptors, served, unharmed
from support import Json, eventually, request

pytestmark = pytest.mark.usefixtures("access")
TEXT = "/v1/completions"
SHORT = {"model": "lasting", "prompt": "Once", "max_tokens": 2}
LONG = "a long story about an otter " * 150
Sent = Callable[[socket.socket], object]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server with one slot, so that a request that is not given up would stop all others."""
    folder = tmp_path_factory.mktemp("gone")
    (folder / "models").mkdir()
    write_lasting(folder / "models")
    flags = (
        "--parallel", "1", "--max-models", "1", "--batch-size", "32", "--sse-ping-interval", "0.1",
        *lasting.FLAGS,
    )  # fmt: skip
    with served(folder, *flags) as child, unharmed(child, SHORT):
        yield child


# --- stages ---------------------------------------------------------------------------------------


def post(body: Json) -> bytes:
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        TEXT.encode(), len(data), data,
    )  # fmt: skip


def read_until(sock: socket.socket, end: bytes, data: bytes = b"") -> None:
    while end not in data:
        more = sock.recv(1024)
        assert more, data
        data += more


def before_anything(sock: socket.socket) -> None:
    """It only connects."""


def in_the_head(sock: socket.socket) -> None:
    sock.sendall(post(SHORT)[:40])


def after_the_head(sock: socket.socket) -> None:
    sock.sendall(post(SHORT).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


def in_the_body(sock: socket.socket) -> None:
    sock.sendall(post(SHORT)[:-5])


def in_a_large_body(sock: socket.socket) -> None:
    """It is in a file of the server."""
    sock.sendall(post({**SHORT, "prompt": "a" * 3_000_000})[:-1_000_000])


def in_a_chunked_body(sock: socket.socket) -> None:
    head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    sock.sendall(head.encode() + b'5\r\n{"pro\r\n3\r\nm')


def after_the_request(sock: socket.socket) -> None:
    sock.sendall(post({**lasting.BODY, "stream": False}))


def in_the_prompt(sock: socket.socket) -> None:
    """The headers come when the prompt is accepted; it has 130 batches."""
    sock.sendall(post({**lasting.BODY, "prompt": LONG}))
    read_until(sock, b"\r\n\r\n")


def at_the_first_token(sock: socket.socket) -> None:
    sock.sendall(post(lasting.BODY))
    read_until(sock, b'"text":"')


def in_the_stream(sock: socket.socket) -> None:
    sock.sendall(post(lasting.BODY))
    for _ in range(5):
        read_until(sock, b'"text":"')


def at_the_last_event(sock: socket.socket) -> None:
    sock.sendall(post({**SHORT, "stream": True, "ignore_eos": True}))
    read_until(sock, b'"finish_reason":"length"')


def after_the_last_event(sock: socket.socket) -> None:
    sock.sendall(post({**SHORT, "stream": True}))
    read_until(sock, b"[DONE]")


STAGES: tuple[Sent, ...] = (
    before_anything, in_the_head, after_the_head, in_the_body, in_a_large_body, in_a_chunked_body,
    after_the_request, in_the_prompt, at_the_first_token, in_the_stream, at_the_last_event,
    after_the_last_event,
)  # fmt: skip

# --- ends -----------------------------------------------------------------------------------------


def reset(sock: socket.socket) -> None:
    """End with RST, as a program that is killed does while data waits for it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def close(sock: socket.socket) -> None:
    sock.close()


def half_close(sock: socket.socket) -> None:
    """End its own side, and read what still comes."""
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(1 << 16):
        pass
    sock.close()


def vanish(sock: socket.socket) -> None:
    """Go without a word, as a machine that loses its power: the connection is half open."""
    repair = 19  # TCP_REPAIR of linux/tcp.h
    try:
        sock.setsockopt(socket.IPPROTO_TCP, repair, 1)
    except OSError:
        pytest.skip("a connection can be abandoned by the administrator of a Linux only")
    sock.close()


ENDS = (reset, close, half_close, vanish)
SILENT = (after_the_request, in_the_head, after_the_head, in_the_body, in_a_large_body,
          in_a_chunked_body, before_anything)  # fmt: skip
"""Stages at which the server sends nothing, so that nothing but a deadline notices a client that
has vanished: see ``test_slow_connections.py``."""
CASES = [
    pytest.param(
        # All ends are the same to the server, but in which way it notices them.
        stage, end, marks=() if end is reset or stage is in_the_stream else pytest.mark.slow
    )
    for end in ENDS
    for stage in STAGES
    if not (end is vanish and stage in SILENT)
]  # fmt: skip


def busy(server: Child) -> dict[str, int]:
    """What requests hold: places at the gate, slots and places in the queue."""
    stats = request(server.url, "GET", "/v1/stats").json
    (model,) = stats["models"]
    return {
        "places": stats["places"]["taken"],
        "running": model["running"],
        "waiting": model["waiting"],
    }


def at_rest(server: Child) -> None:
    eventually(lambda: not any(busy(server).values()), "everything is free")


@pytest.mark.parametrize(("stage", "end"), CASES)
def test_a_client_that_is_gone(server: Child, stage: Sent, end: Sent) -> None:
    at_rest(server)
    before = descriptors(server)
    for _ in range(3):
        sock = connect(server)
        stage(sock)
        end(sock)
    at_rest(server)
    eventually(lambda: descriptors(server) <= before, "all files are closed")
    assert complete(server, SHORT).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("end", [reset, vanish])
def test_clients_that_are_gone_while_they_wait_for_a_slot(
    serve: Callable[..., Child], models: Path, end: Sent
) -> None:
    """A3: their requests are never computed. Both ends differ in how the server notices them.

    The worker tells the figures once a second, so the answer that has the slot must last.
    """
    write_lasting(models)
    server = serve("--parallel", "1", *lasting.FLAGS, "--threads", "1")
    server.wait_ready()
    with Kept(server.url, TEXT, lasting.BODY) as running:
        sockets = [connect(server) for _ in range(3)]
        for sock in sockets:
            sock.sendall(post({**lasting.BODY, "prompt": LONG}))
        eventually(lambda: busy(server)["waiting"] == 3, "they wait")
        for sock in sockets:
            end(sock)
        eventually(lambda: busy(server)["waiting"] == 0, "they are given up")
        assert busy(server)["running"] == 1
        assert not running.ended
    at_rest(server)


@pytest.mark.parametrize("end", [reset, pytest.param(close, marks=pytest.mark.slow)])
def test_clients_that_are_gone_while_their_model_loads(
    serve: Callable[..., Child], models: Path, starter_path: Path, end: Sent
) -> None:
    """The model is loaded for the next request. The row with another end shows the same."""
    (models / "late.gguf").symlink_to(starter_path)
    server = serve("--parallel", "1")
    assert server.url
    sockets = [connect(server) for _ in range(3)]
    for sock in sockets:
        sock.sendall(post({**lasting.BODY, "model": "late"}))
    eventually(lambda: bool(server.workers()), "it loads")
    for sock in sockets:
        end(sock)
    assert complete(server, {**SHORT, "model": "late"}).status == 200
    at_rest(server)
