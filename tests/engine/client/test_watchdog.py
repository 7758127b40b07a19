"""A5, A8, A12: a worker that is stopped or killed in any phase is replaced, and its clients know.

The watchdog gives a silent worker 15 seconds; these tests shorten that, not the way there.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pools import Clock
from processes import alive, all_stopped
from support import STARTER, TIMEOUT, Response, Stream, endless, eventually, request

from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.main import Worker
from offgrid.engine.worker.writer import Writer
from offgrid.errors import ModelLoadFailed
from offgrid.server import Server

if sys.platform == "win32":
    pytest.skip("no such signals", allow_module_level=True)

TEXT = "/v1/completions"
SILENT = 1.5
"""Seconds. The worker is asked once a second."""

FOR_EVER = 100_000.0
"""Seconds."""

pytestmark = pytest.mark.usefixtures("no_pauses")
both = pytest.mark.parametrize(
    "number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"]
)


@pytest.fixture
def loading(starter_path: Path) -> Iterator[EngineClient]:
    """A model whose worker has just been started."""
    client = EngineClient(
        Load(str(starter_path), parallel=1, threads=1),
        queue_size=1, load_timeout=600, stall_timeout=600, name="model",
    )  # fmt: skip
    client.start()
    yield client
    client.close()


def new_worker(client: EngineClient, *before: int) -> int:
    """Wait for a worker, ready or not, with another process id than these."""
    eventually(lambda: client.pid not in (None, *before), "a worker is started")
    return client.pid or 0


def harm(client: EngineClient, number: signal.Signals) -> int:
    """Send a signal to the worker, and let the watchdog wait only a moment until there is another
    one; return that one's id."""
    watchdog, worker = client.supervisor.watchdog, client.pid or 0
    os.kill(worker, number)
    usual = watchdog.start_within, watchdog.pong_within
    watchdog.start_within = watchdog.pong_within = SILENT
    eventually(lambda: client.pid != worker, "the worker is ended")
    watchdog.start_within, watchdog.pong_within = usual
    eventually(lambda: is_gone(worker), "nothing is left of it")
    return new_worker(client, worker)


def is_gone(pid: int) -> bool:
    try:
        return not alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
@both
def test_while_it_loads(loading: EngineClient, number: signal.Signals) -> None:
    """It is loaded once more, because the fault may have been outside the file."""
    new_worker(loading)
    second = harm(loading, number)
    loading.wait_ready()
    assert loading.pid == second


@pytest.mark.slow
def test_stopped_twice_while_it_loads(loading: EngineClient) -> None:
    """Requests fail with the reason, and no third worker is started."""
    new_worker(loading)
    second = harm(loading, signal.SIGSTOP)
    os.kill(second, signal.SIGSTOP)
    watchdog = loading.supervisor.watchdog
    watchdog.start_within = watchdog.pong_within = SILENT
    with pytest.raises(ModelLoadFailed, match="its process was stuck twice while loading it"):
        loading.wait_ready()
    eventually(lambda: is_gone(second), "the worker is gone")


@pytest.mark.slow
def test_one_that_answers_no_pings_is_not_waited_for(starter_path: Path) -> None:
    """Many may ask what its slots do, and others need the threads in which they would wait."""
    clock = Clock()
    client = EngineClient(
        Load(str(starter_path), parallel=1, threads=1),
        queue_size=1, load_timeout=600, stall_timeout=600, clock=clock,
    )  # fmt: skip
    client.start()
    try:
        client.wait_ready()
        eventually(lambda: client.ask(TIMEOUT) is not None, "it has answered")
        asked = client.latest
        assert client.ask(TIMEOUT) is not asked
        watchdog, worker = client.supervisor.watchdog, client.pid or 0
        watchdog.pong_within = 2 * FOR_EVER
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: all_stopped(worker), "it has stopped")
        pings = watchdog.pings
        eventually(lambda: watchdog.pings > pings + 1, "its last answer has been read")
        clock.ahead += FOR_EVER + 60
        assert client.ask(FOR_EVER) is client.latest
        os.kill(worker, signal.SIGCONT)
    finally:
        client.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    server = make_server(parallel=2)
    server.pool.engine(STARTER)
    return server


def goes_on(server: Server) -> None:
    """Check that the next worker answers, and that no place in the queue was lost."""
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 1}
    assert request(server.url, "POST", TEXT, body).status == 200
    client = server.pool.engine(STARTER)
    eventually(lambda: client.in_flight == 0, "all places are free")


@both
def test_while_it_generates(server: Server, number: signal.Signals) -> None:
    client = server.pool.engine(STARTER)
    with Stream(server.url, TEXT, endless(max_tokens=1900)) as stream:
        assert stream.read_some()
        harm(client, number)
        *_, last = stream.events()
    assert json.loads(last)["error"]["code"] == "engine_fault"
    goes_on(server)


@pytest.mark.slow
@both
def test_while_it_reads_a_prompt(server: Server, number: signal.Signals) -> None:
    """The prompt may be the reason, so the request is not tried again."""
    body = endless("a long story about an otter " * 150, stream=False, max_tokens=1000)

    def answer() -> Response:
        client = server.pool.engine(STARTER)
        answers: list[Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(request(server.url, "POST", TEXT, body))
        )
        asking.start()
        eventually(lambda: bool(client.requests.computing()), "the worker computes the prompt")
        harm(client, number)
        asking.join()
        return answers[0]

    # A worker that was stopped between two steps computed nothing, so then it is tried again.
    answers = (answer() for _ in range(10))
    failed = next(one for one in answers if one.status != 200)
    assert failed.status == 500
    assert failed.json["error"]["code"] == "engine_fault"
    goes_on(server)


def test_work_without_a_step_counts_as_a_long_step() -> None:
    """The loop may hang before its step, for example in a write to a disk that does not react."""

    class Engine:
        step_began: float | None = None
        is_idle = True

    engine = Engine()
    worker = Worker(io.BytesIO(), Writer(io.BytesIO()))
    assert worker._busy_for(engine) == 0.0  # type: ignore[arg-type]
    engine.is_idle = False
    assert worker._busy_for(engine) == 0.0  # type: ignore[arg-type]
    seen = worker._idle_since
    assert seen is not None
    assert worker._busy_for(engine) > 0.0  # type: ignore[arg-type]
    assert worker._idle_since == seen
    engine.step_began = seen - 7.0
    assert worker._busy_for(engine) >= 7.0  # type: ignore[arg-type]
    assert worker._idle_since is None


# --- what the system does with a worker -----------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the files of /proc are Linux's")
def test_memory_that_runs_out_costs_the_worker_first(server: Server) -> None:
    """The kernel prefers processes with a higher number."""

    def badness(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert badness(server.pool.engine(STARTER).pid or 0) == min(badness("self") + 500, 1000)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the files of /proc are Linux's")
@pytest.mark.parametrize("wanted", [False, True])
def test_core_dumps(make_server: Callable[..., Server], wanted: bool) -> None:
    """E19, E20: by default a crash writes no texts to the disk, and starts no debugger."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this system allows no core dumps at all")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        worker = make_server(core_dumps=wanted).pool.engine(STARTER).pid or 0
        limits = {os.getpid(): "", worker: ""}
        for pid in limits:
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (limits[pid],) = [
                line.split()[4] for line in lines if line.startswith("Max core file size")
            ]
        assert all((limit != "0") is wanted for limit in limits.values()), limits
        environ = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        assert b"GGML_NO_BACKTRACE=1" in environ
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
