"""Attacks on a worker: killed, stopped, crashed. The server keeps serving its clients."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import lasting
import pytest
from lasting import Kept, write_lasting
from processes import Child, all_gone, all_stopped
from served import connect
from support import (
    STARTER,
    Json,
    Stream,
    chat_body,
    eventually,
    request,
    response_on,
    together,
)

pytestmark = pytest.mark.usefixtures("access")
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
Serve = Callable[..., Child]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(max_tokens=2)),
        # tests/api/test_tokens.py covers it, with a server in the process of the tests.
        pytest.param("/tokenize", {"content": "Once"}, marks=pytest.mark.slow),
    ],
    ids=["chat", "tokenize"],
)
def test_a_worker_killed_while_idle(serve: Serve, path: str, body: Json) -> None:
    """A new worker answers the next request."""
    child = serve()
    url = child.wait_ready()
    worker = child.worker()
    worker.kill()
    assert request(url, "POST", path, body).status == 200
    assert child.worker() != worker


@pytest.mark.slow
def test_a_stream_that_waits_outlives_the_worker(serve: Serve, models: Path) -> None:
    """Its client has read the headers and the first frame, and notices nothing.

    The default run covers this without HTTP, in ``tests/engine/client/test_client.py``.
    """
    write_lasting(models)
    child = serve("--parallel", "1", *lasting.FLAGS)
    url = child.wait_ready()
    worker = child.worker()
    short = chat_body(model="lasting", stream=True, max_tokens=3, ignore_eos=True)
    with Kept(url, TEXT, lasting.BODY) as running, Stream(url, CHAT, short) as waiting:
        assert not running.ended
        worker.kill()
        assert "engine_fault" in running.wait()
        *events, done = waiting.events()
    assert done == "[DONE]"
    assert '"finish_reason":"length"' in events[-1]


@pytest.mark.slow
def test_hundreds_of_lookups_in_a_stopped_worker(serve: Serve) -> None:
    """The permitted number wait for the worker; the others are refused at once.

    Requests that need no worker are answered meanwhile. All but the last bytes are sent before the
    worker is stopped: after fifteen seconds the server would replace it.
    """
    child = serve("--parallel", "1", "--queue-size", "1", "--max-models", "1")
    url = child.wait_ready()
    worker = child.worker()
    body = b'{"content": "Once"}'
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(connect(child)) for _ in range(200)]
        for sock in sockets:
            sock.sendall(head + body[:-1])
        worker.suspend()
        eventually(lambda: all_stopped(worker.pid), "it has stopped")
        for sock in sockets:
            sock.sendall(body[-1:])
        # Two sequences and eight more places: ten wait. The others are refused in any case.
        eventually(lambda: len(readable(sockets)) >= 190, "all but ten are answered")
        refused = readable(sockets)
        waiting = [sock for sock in sockets if sock not in refused]
        answers = [response_on(sock) for sock in refused]
        assert {answer.status for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        for path in ("/health", "/", "/v1/models", f"/v1/models/{STARTER}", "/openapi.json",
                     "/metrics"):  # fmt: skip
            assert request(url, "GET", path).status == 200
        assert request(url, "GET", "/ready").status in (200, 503)
        assert request(url, "GET", "/v1/stats").json["places"]["taken"] == 10
        assert len(waiting) == 10
        assert not readable(waiting)
        worker.resume()
        assert [response_on(sock).status for sock in waiting] == [200] * 10


def readable(sockets: list[socket.socket]) -> list[socket.socket]:
    """The connections on which something has come."""
    return select.select(sockets, [], [], 0)[0]


@pytest.mark.slow
def test_a_stopped_worker_and_prompts_that_fill_its_pipe(serve: Serve) -> None:
    """Their writers wait for the pipe; requests that need no worker do not wait for them."""
    child = serve("--parallel", "1", "--queue-size", "15", "--max-models", "1")
    url = child.wait_ready()
    worker = child.worker()
    worker.suspend()
    eventually(lambda: all_stopped(worker.pid), "it has stopped")
    body = chat_body("once upon a time " * 1500, max_tokens=1)

    def ask() -> int:
        return request(url, "POST", CHAT, body).status

    def look() -> None:
        for _ in range(20):
            assert request(url, "GET", "/health").status == 200
        worker.resume()

    *statuses, _ = together([*[ask] * 16, look])
    assert set(statuses) == {400}  # longer than the context, which only the worker can tell


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_stopped_worker_ends_with_its_server(serve: Serve) -> None:
    child = serve()
    child.wait_ready()
    worker = child.worker()
    worker.suspend()
    child.process.kill()
    all_gone([worker])


@pytest.mark.slow
def test_a_crash_leaves_a_trace_in_the_log(serve: Serve, models: Path) -> None:
    """Each line of the trace is one line of the log, so that it is readable."""
    write_lasting(models)
    child = serve(*lasting.FLAGS)
    url = child.wait_ready()
    with Kept(url, TEXT, lasting.BODY) as stream:
        os.kill(child.worker().pid, signal.SIGSEGV)
        assert "engine_fault" in stream.wait()
    child.err.find(r"(?m)^.*ERROR.*ended with status -11\. its last words:$")
    child.err.find(r"(?m)^.* ERROR \S+ Fatal Python error: Segmentation fault$")
    child.err.find(r'(?m)^.* ERROR \S+   File "[^"]*engine\.py", line \d+ in \w+$')
    body = chat_body(model="lasting", max_tokens=1)
    assert request(url, "POST", CHAT, body).status == 200
