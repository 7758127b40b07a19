"""Signals while answers are streamed: none ends an answer without an error event."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Child, all_gone, models_flags, program, serving
from stopped_worker import Waiting
from support import STARTER, Stream, endless, eventually, request
from variants import few

pytestmark = pytest.mark.usefixtures("access")
if sys.platform == "win32":
    pytest.skip("no such signals", allow_module_level=True)
else:
    import pty

TEXT = "/v1/completions"
FINISHING = "finishing running requests"


def ends_well(stream: Stream) -> bool:
    """Read a stream to its end; return whether it ended normally."""
    return list(stream.events())[-1] == "[DONE]"


def what_is_there(terminal: int) -> str:
    """The text that a program has written to a terminal since the last call."""
    try:
        return os.read(terminal, 4096).decode()
    except BlockingIOError:
        return ""


def open_stream(url: str) -> Stream:
    """A long stream that has begun."""
    stream = Stream(url, TEXT, endless(max_tokens=1500))
    assert stream.read_some()
    return stream


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server without a terminal, like a service."""
    with serving(tmp_path_factory.mktemp("server")) as child:
        child.wait_ready()
        yield child


@pytest.mark.parametrize(
    ("number", "told"),
    few(
        1,
        [
            (
                signal.SIGHUP,
                r"SIGHUP: read the settings again; no setting has [^$]*holds 1 models",
            ),
            (signal.SIGUSR1, r"(Thread|Current thread) 0x"),
            (signal.SIGUSR2, "SIGUSR2 has no effect"),
        ],
    ),
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_signals_to_all_processes_of_a_service(
    server: Child, number: signal.Signals, told: str
) -> None:
    """The answer continues in the same worker, and the server logs its reaction."""
    worker = server.worker()
    with open_stream(server.url) as stream:
        worker.suspend()
        os.killpg(server.process.pid, number)
        server.err.find(told)
        worker.resume()
        assert ends_well(stream)
    eventually(lambda: server.workers() == [worker], "its worker is the same")
    assert request(server.url, "GET", "/health").status == 200
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 1}
    assert request(server.url, "POST", TEXT, body).status == 200


@pytest.mark.slow
def test_quit_lets_answers_finish(server: Child) -> None:
    """The last of the tests that share the server."""
    worker = server.worker()
    with open_stream(server.url) as stream, Waiting(server.url, worker, others=1) as waiting:
        os.killpg(server.process.pid, signal.SIGQUIT)
        server.err.find(FINISHING)
        worker.resume()
        assert ends_well(stream)
        assert waiting.response().status == 200
    assert server.wait() == 0
    all_gone([worker])


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True], ids=["closed", "nohup"])
def test_a_terminal_that_is_closed(tmp_path: Path, nohup: bool) -> None:
    """The system signals all of its processes, and the shell once more; answers finish."""
    ours, theirs = pty.openpty()
    command = (program("offgrid"), "serve", "--port", "0", *models_flags(tmp_path))
    files = ("--responses-file", str(tmp_path / "r"))
    first = ("nohup",) if nohup else ()
    child = Child(*first, *command, *files, cwd=tmp_path, stderr=theirs)
    os.close(theirs)
    try:
        url = child.wait_ready()
        worker = child.worker()
        with open_stream(url) as stream, Waiting(url, worker, others=1) as waiting:
            os.killpg(child.process.pid, signal.SIGHUP)
            if not nohup:
                os.set_blocking(ours, False)
                written: list[str] = []

                def drains() -> bool:
                    written.append(what_is_there(ours))
                    return FINISHING in "".join(written)

                eventually(drains, "it drains")
            os.close(ours)
            os.killpg(child.process.pid, signal.SIGHUP)
            worker.resume()
            assert ends_well(stream)
            assert waiting.response().status == 200
        if nohup:
            assert request(url, "GET", "/health").status == 200
        else:
            assert child.wait() == 0
            all_gone([worker])
    finally:
        child.end()
