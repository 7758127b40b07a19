"""Raw HTTP: bodies above the limit, ambiguous lengths, truncated requests."""

from __future__ import annotations

import contextlib
import random
import re
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from processes import Child, serving
from support import TIMEOUT, Json, eventually, request, response_on

pytestmark = pytest.mark.usefixtures("access")
LIMIT = 8 << 20
MIB = 1 << 20
POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: %b\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server without a loaded model, which no test here needs."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models").mkdir()
    broken = folder / "models" / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with serving(folder) as child:
        yield child


class Connection:
    """A client that sends everything before it reads anything."""

    def __init__(self, url: str, buffer: int = 0) -> None:
        """``buffer``: size of the socket's receive buffer in bytes; 0 for the default."""
        address = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect((address.hostname or "", address.port or 0))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Connection:
        for part in parts:
            self.socket.sendall(part)
        return self

    def response(self) -> tuple[int, Json]:
        """Read the next response; return its status and JSON."""
        response = response_on(self.socket)
        return response.status, response.json

    def ended(self) -> bool:
        """Whether the server has ended the connection."""
        return self.socket.recv(1) == b""


def refused(connection: Connection, status: int) -> str:
    """Check that a refusal has the usual form and ends the connection; return its message."""
    answered, body = connection.response()
    error = body["error"]
    assert answered == status, error
    assert error.keys() == {"message", "type", "param", "code"}
    assert connection.ended()
    return str(error["message"])


@pytest.mark.slow
@pytest.mark.parametrize("more", [1, MIB - 1, MIB, MIB + 1, 2 * MIB, 32 * MIB])
def test_a_body_above_the_limit_is_told_so(server: Child, more: int) -> None:
    """The connection is not reset while the body is being sent."""
    with Connection(server.url) as connection:
        connection.send(POST, b"Content-Length: %d\r\n\r\n" % (LIMIT + more))
        for _ in range((LIMIT + more) // MIB):
            connection.send(bytes(MIB))
        connection.send(bytes((LIMIT + more) % MIB))
        assert refused(connection, 413) == f"The request body is larger than {LIMIT} bytes."


@pytest.mark.parametrize("pieces", [9, 10, 40])
def test_a_chunked_body_above_the_limit_is_told_so(server: Child, pieces: int) -> None:
    with Connection(server.url) as connection:
        connection.send(POST, b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(pieces):
            connection.send(b"%x\r\n" % MIB, bytes(MIB), b"\r\n")
        connection.send(b"0\r\n\r\n")
        status, body = connection.response()
        assert (status, body["error"]["code"]) == (413, "request_too_large")


def test_large_bodies_leave_nothing(server: Child) -> None:
    """160 MiB of refused bodies leave neither memory nor temporary files in use."""
    process = psutil.Process(server.process.pid)
    request(server.url, "GET", "/health")
    before = process.memory_info().rss
    files = len(process.open_files())
    for _ in range(4):
        test_a_body_above_the_limit_is_told_so(server, 32 * MIB)
    # The server frees both after the response.
    eventually(lambda: process.memory_info().rss < before + 16 * MIB, "the memory is free")
    eventually(lambda: len(process.open_files()) <= files, "the files are closed")


def test_a_gigabyte_that_is_announced_is_refused_at_once(server: Child) -> None:
    """This includes clients that send ``Expect: 100-continue``; they then send no body."""
    for expect in (b"", b"Expect: 100-continue\r\n"):
        with Connection(server.url) as connection:
            connection.send(POST, expect, b"Content-Length: 1000000000\r\n\r\n")
            assert "larger than" in refused(connection, 413)


def test_clients_that_expect_100_continue(server: Child) -> None:
    with Connection(server.url) as connection:
        connection.send(POST, b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        status, body = connection.send(b"[]").response()
        assert (status, body["error"]["code"]) == (400, "invalid_json")
        # A request without a body needs no 100 response.
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n"
        assert connection.send(head).response() == (200, {"status": "healthy"})


@pytest.mark.parametrize("size", [20_000, 2_000_000])
def test_headers_above_the_limit_are_told_so(server: Child, size: int) -> None:
    with Connection(server.url) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"y" * size)
        connection.send(b"\r\n\r\n")
        assert "larger than 16384 bytes" in refused(connection, 431)


CODED = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding:\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\n",
        b"content-length: 5\r\ntRANSFER-eNCODING:\tchunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n", b"Content-Length: 5 5\r\n", b"Content-Length: \r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n", b"Content-Length : 5\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding:\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n", b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked\x85\r\n", b"Transfer-Encoding: chunk\r\n",
        b'Transfer-Encoding: "chunked"\r\n', b"X: y\nTransfer-Encoding: chunked\r\n",
        b" Transfer-Encoding: chunked\r\n",
    ],
    ids=lambda headers: repr(headers[:64]),
)  # fmt: skip
def test_ambiguous_lengths_end_the_connection(server: Child, headers: bytes) -> None:
    """The data after it, a second request by the other length, gets no response."""
    with Connection(server.url) as connection:
        connection.send(POST, headers, b"\r\n", CODED, HEALTH)
        answered, body = connection.response()
        # 501 means an unknown transfer coding, 413 a number that is too large.
        assert answered in (400, 413, 501), body
        assert re.search(r"[^.]\.$", body["error"]["message"])
        assert connection.ended()


def test_an_old_version_has_no_chunks(server: Child) -> None:
    with Connection(server.url) as connection:
        head = b"POST /tokenize HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked"
        connection.send(head, b"\r\n\r\n", CODED, HEALTH)
        assert "Transfer-Encoding" in refused(connection, 400)


@pytest.mark.parametrize("line", [b"GET http://[ HTTP/1.1", b"GET http://]/ HTTP/1.1"])
def test_invalid_request_targets(server: Child, line: bytes) -> None:
    with Connection(server.url) as connection:
        connection.send(line, b"\r\nHost: localhost\r\n\r\n")
        status, _ = connection.response()
        assert 400 <= status < 500


VALID = (
    HEALTH,
    POST + b"Content-Length: 2\r\n\r\n{}" + HEALTH,
    POST + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\n" + HEALTH,
    b"OPTIONS /v1/models HTTP/1.1\r\nHost: [::1]:80\r\nOrigin: http://a.example:1\r\n\r\n",
    b"GET http://127.0.0.1:80/v1/models/a%20b?c=d#e HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"DELETE /v1/responses/x HTTP/1.1\r\nHost: localhost\r\nReferer: http://a.example/b\r\n\r\n",
)
PIECES = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\x00", b"\xff", b" ", b":", b"[", b"]", b"%", b"//",
    b"@", b",", b"#", b"?", b";", b"0", b"9" * 5000, b"-1", b"chunked", b"HTTP/1.1", b"http://[",
    b"\t",
)  # fmt: skip


def mutated(rng: random.Random, text: bytes) -> bytes:
    """A valid request with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 1, 8)))
        text = (
            text[:start] + rng.choice((b"", rng.choice(PIECES), text[start:end] * 2)) + text[end:]
        )
    return text


@pytest.mark.slow
def test_random_changes_of_raw_requests(server: Child) -> None:
    """Every request is answered or refused; none makes the server fail."""
    rng = random.Random(7)
    for number in range(300):
        text = mutated(rng, VALID[number % len(VALID)])
        with Connection(server.url) as connection:
            connection.send(text)
            connection.socket.shutdown(socket.SHUT_WR)
            answer = connection.socket.recv(12)
            assert answer[9:] not in (b"500", b"502", b"503"), text


def read_all(connections: list[Connection]) -> list[bytes]:
    """Read from all connections at once, each to its end.

    If one had to wait for the others, the server would close it because its client does not read.
    """
    received = {connection: bytearray() for connection in connections}
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            ready = selector.select(TIMEOUT)
            assert ready, "nothing comes any more"
            for key, _ in ready:
                data = key.data.socket.recv(1 << 20)
                received[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
    return [bytes(data) for data in received.values()]


@pytest.mark.slow
def test_clients_that_send_many_requests_and_read_nothing_hold_no_threads(
    tmp_path: Path,
) -> None:
    """With more such connections than threads, the server still serves others.

    The slow clients lose nothing when they finally read.
    """
    count, at_once = 24, 8
    flags = ("--max-models", "1", "--parallel", "1", "--queue-size", "0")
    with serving(tmp_path, *flags) as child, contextlib.ExitStack() as stack:
        document = request(child.url, "GET", "/openapi.json").body
        connections = [stack.enter_context(Connection(child.url, 4096)) for _ in range(count)]
        for connection in connections:
            connection.send(DOCUMENT % b"keep-alive" * (at_once - 1), DOCUMENT % b"close")
        for _ in range(5):
            assert request(child.url, "GET", "/health").status == 200
        for received in read_all(connections):
            assert received.count(document) == at_once


def test_nothing_of_this_is_in_the_log(server: Child) -> None:
    """A client that sends nonsense must not fill the log."""
    assert request(server.url, "GET", "/health").status == 200
    log = server.err.text
    assert not re.search(r"Traceback| waitress| offgrid\.api", log), log
