"""A15, A16: what clients see while a server ends, and what it leaves.

``tests/test_server.py`` has the signals, and ends with a worker that is stuck.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import lasting
import pytest
from lasting import Kept, write_lasting
from processes import Child, all_gone, serving
from stopped_worker import Waiting
from support import STARTER, TIMEOUT, Stream, endless, request

TEXT = "/v1/completions"
FINISHING = "finishing running requests"
RESPONSES = "/v1/responses"
STREAMS = 8


@contextlib.contextmanager
def streams(url: str, max_tokens: int) -> Iterator[list[Stream]]:
    """Streams that have all begun."""
    with contextlib.ExitStack() as stack:
        body = endless(max_tokens=max_tokens)
        opened = [stack.enter_context(Stream(url, TEXT, body)) for _ in range(STREAMS)]
        for stream in opened:
            assert stream.read_some()
        yield opened


def connect(url: str) -> socket.socket:
    """A new connection to the server."""
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port or 0), TIMEOUT)


def answer_of(connection: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    """The next answer on a connection, with its whole body, so that no byte of it is left."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response, response.read()


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def begin_request(connection: socket.socket) -> bytes:
    """Send the first part of a request; return the rest."""
    body = json.dumps({"model": STARTER, "prompt": "Once", "max_tokens": 1}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:5])
    return body[5:]


def test_answers_finish_while_nothing_new_begins(tmp_path: Path) -> None:
    """A15: a proxy in front of several servers finds at once that this one takes no connections.

    A request that had begun to arrive is refused with the reason, not cut off.
    """
    flags = ("--parallel", str(STREAMS), "--drain-timeout", "600")
    with serving(tmp_path, *flags) as child:
        url = child.wait_ready()
        worker = child.worker()
        with (
            streams(url, 100) as opened,
            connect(url) as idle,
            connect(url) as late,
            contextlib.ExitStack() as stack,
        ):
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            health, _ = answer_of(idle)
            assert health.status == 200
            rest = begin_request(late)
            # One thread reads all connections in turn, so it has read the beginning by now.
            assert request(url, "GET", "/health").status == 200
            # Pause the answers so that they do not end before the checks below.
            waiting = stack.enter_context(Waiting(url, worker, STREAMS))
            child.process.terminate()
            child.err.find(FINISHING)
            assert is_closed(idle)
            with pytest.raises(ConnectionRefusedError):
                connect(url)
            late.sendall(rest)
            refused, reason = answer_of(late)
            assert refused.status == 503
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after"]) >= 1
            assert json.loads(reason)["error"]["code"] == "server_shutting_down"
            assert is_closed(late)
            worker.resume()
            for stream in opened:
                *_, done = stream.events()
                assert done == "[DONE]"
            assert waiting.response().status == 200
        assert child.wait() == 0
        all_gone([worker])


@pytest.mark.slow
def test_answers_that_take_too_long_end_with_an_error(tmp_path: Path) -> None:
    """A15: streams get an event with the reason; a background response has failed, and says so
    after a restart. The exit status is 0: the server was told to end."""
    (tmp_path / "models").mkdir()
    write_lasting(tmp_path / "models")
    # They take turns, so that each lasts as long as one with a context eight times as long.
    flags = (
        "--parallel", str(STREAMS + 1), "--drain-timeout", "0.2", *lasting.FLAGS,
        "--ctx-size", str(lasting.CONTEXT // STREAMS),
    )  # fmt: skip
    with serving(tmp_path, *flags) as child:
        url = child.wait_ready()
        worker = child.worker()
        body = {"model": "lasting", "input": "Once", "background": True, "ignore_eos": True}
        id = request(url, "POST", RESPONSES, body).json["id"]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(Kept(url, TEXT, lasting.BODY)) for _ in range(STREAMS)]
            child.process.terminate()
            for stream in opened:
                assert json.loads(stream.wait())["error"]["code"] == "server_shutting_down"
        assert child.wait() == 0
        assert "Traceback" not in child.err.text
        all_gone([worker])
    with serving(tmp_path, *flags) as child:
        response = request(child.wait_ready(), "GET", f"{RESPONSES}/{id}").json
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_signal_while_a_model_loads_leaves_no_file(tmp_path: Path, stopped: bool) -> None:
    """A16. Not even a worker that is stopped holds up the end.

    The slow row waits some seconds for the stopped worker; ``tests/test_server.py`` has another
    one that is stuck while it serves.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "models").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with serving(tmp_path, "--drain-timeout", "600", TMPDIR=str(temporary)) as child:
        assert child.url
        worker = child.worker()
        if stopped:
            worker.suspend()
        child.process.terminate()
        assert child.wait() == 0
        all_gone([worker])
    assert [path for path in sorted(tmp_path.rglob("*")) if "sqlite3" not in path.name] == before


@pytest.mark.slow
def test_a_server_that_ends_hands_its_port_over(tmp_path: Path) -> None:
    """The next server takes the port while this one finishes its answers."""
    with serving(tmp_path, "--drain-timeout", "600") as child:
        url = child.wait_ready()
        worker = child.worker()
        with Stream(url, TEXT, endless(max_tokens=100)) as stream:
            assert stream.read_some()
            with Waiting(url, worker, others=1) as waiting:
                child.process.terminate()
                child.err.find(FINISHING)
                successor(tmp_path, url)
                worker.resume()
                assert waiting.response().status == 200
            *_, done = stream.events()
            assert done == "[DONE]"


def successor(folder: Path, url: str) -> None:
    """Start another server on the same port, and end it."""
    with serving(folder, "--port", str(urlsplit(url).port)) as child:
        assert child.wait_ready() == url
        assert request(url, "GET", "/health").status == 200
        end(child)


def end(child: Child) -> None:
    child.process.terminate()
    assert child.wait() == 0
