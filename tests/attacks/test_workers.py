"""Attacks on a worker: killed, stopped, crashed. The server keeps serving its clients."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest
from processes import Child, all_gone, all_stopped
from support import (
    STARTER,
    Json,
    Response,
    Stream,
    chat_body,
    endless,
    eventually,
    request,
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
def test_a_stream_that_waits_outlives_the_worker(serve: Serve) -> None:
    """Its client has read the headers and the first frame, and notices nothing.

    The default run covers this without HTTP, in ``tests/engine/client/test_client.py``.
    """
    child = serve("--parallel", "1")
    url = child.wait_ready()
    worker = child.worker()
    with Stream(url, TEXT, endless(max_tokens=1900)) as running:
        assert running.read_some()
        with Stream(url, CHAT, chat_body(stream=True, max_tokens=3, ignore_eos=True)) as waiting:
            worker.kill()
            *_, error = running.events()
            assert "engine_fault" in error
            *events, done = waiting.events()
    assert done == "[DONE]"
    assert '"finish_reason":"length"' in events[-1]


@pytest.mark.slow
def test_hundreds_of_lookups_in_a_stopped_worker(serve: Serve) -> None:
    """The permitted number wait for the worker; the others are refused at once.

    Requests that need no worker are answered meanwhile.
    """
    child = serve("--parallel", "1", "--queue-size", "1", "--max-models", "1")
    url = child.wait_ready()
    worker = child.worker()
    worker.suspend()
    eventually(lambda: all_stopped(worker.pid), "it has stopped")
    answers: list[Response] = []

    def ask() -> None:
        answers.append(request(url, "POST", "/tokenize", {"content": "Once"}))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    # Two sequences and eight more places: ten wait. The others are refused in any case.
    eventually(lambda: len(answers) >= 190, "all but ten are answered")
    assert {answer.status for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    for path in ("/health", "/", "/v1/models", f"/v1/models/{STARTER}", "/openapi.json",
                 "/metrics"):  # fmt: skip
        assert request(url, "GET", path).status == 200
    assert request(url, "GET", "/ready").status in (200, 503)
    assert request(url, "GET", "/v1/stats").json["places"]["taken"] == 10
    assert len(answers) == 190
    worker.resume()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status for answer in answers)[:10] == [200] * 10


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
def test_a_crash_leaves_a_trace_in_the_log(serve: Serve) -> None:
    """Each line of the trace is one line of the log, so that it is readable."""
    child = serve()
    url = child.wait_ready()
    with Stream(url, TEXT, endless(max_tokens=1900)) as stream:
        assert stream.read_some()
        os.kill(child.worker().pid, signal.SIGSEGV)
        *_, error = stream.events()
        assert "engine_fault" in error
    child.err.find(r"(?m)^.*ERROR.*ended with status -11\. its last words:$")
    child.err.find(r"(?m)^.* ERROR \S+ Fatal Python error: Segmentation fault$")
    child.err.find(r'(?m)^.* ERROR \S+   File "[^"]*engine\.py", line \d+ in \w+$')
    assert request(url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
