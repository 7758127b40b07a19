"""Workers in turn: started, watched, ended and replaced, without any request."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support import eventually, no_threads
from variants import few

from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.supervisor import Listener, Supervisor
from offgrid.engine.protocol.commands import Command, Load
from offgrid.engine.protocol.events import EngineEvent
from offgrid.errors import ModelLoadFailed


class Clock:
    """A running clock that a test can move forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Heard(Listener):
    """Records a supervisor's calls, except pings and pongs."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def ready(self, process: WorkerProcess) -> None:
        self.calls.append("ready")

    def take(self, events: Sequence[EngineEvent]) -> None:
        self.calls.append("take")

    def tell(self) -> None:
        pass

    def pinging(self, number: int) -> None:
        pass

    def pong(self, number: int, busy_for: float) -> None:
        pass

    def died(self, cause: str, innocent: bool = False) -> bool:
        self.calls.append("died of memory" if "Memory" in cause else f"died {cause}".strip())
        return False

    def lost(self) -> None:
        self.calls.append("lost")

    def given_up(self, failure: LoadFailure) -> None:
        self.calls.append("given up")


class Workers:
    """The workers of one model, and the recorded calls of their supervisor."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.heard = Heard()
        self.readiness = Readiness(load_timeout=60, most_waiting=1)
        self.supervisor = Supervisor(
            Load(str(path), parallel=1, threads=1),
            self.readiness,
            self.heard,
            name="model",
            load_timeout=60,
            stall_timeout=60,
            clock=self.clock,
        )

    @property
    def pid(self) -> int | None:
        process = self.readiness.process
        return process.pid if process is not None and self.readiness.ready else None

    def next_one(self, *before: int) -> int:
        """Wait for a ready worker with another process id than these; return its id."""
        eventually(lambda: self.pid not in (None, *before), "another one serves")
        return self.pid or 0

    def heard_all(self, *calls: str) -> None:
        """Check all calls. The last one may come after what a test has waited for."""
        eventually(lambda: len(self.heard.calls) >= len(calls), "it is told so")
        assert self.heard.calls == [*calls]

    def close(self) -> None:
        self.readiness.close()
        self.supervisor.stop()
        self.supervisor.end_worker()


@pytest.fixture
def make_workers() -> Iterator[Callable[[Path], Workers]]:
    made: list[Workers] = []

    def make(path: Path) -> Workers:
        made.append(Workers(path))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


@pytest.fixture
def workers(make_workers: Callable[[Path], Workers], starter_path: Path) -> Workers:
    workers = make_workers(starter_path)
    workers.supervisor.start()
    workers.readiness.wait()
    return workers


@pytest.mark.slow
def test_a_worker_that_is_killed_while_idle_is_replaced_soon(workers: Workers) -> None:
    """The pause does not grow, however often that happens."""
    pids: list[int] = []
    for _ in range(3):
        pids.append(workers.next_one(*pids))
        workers.supervisor.kill()
    workers.next_one(*pids)
    assert workers.supervisor.pause <= 0.5
    workers.heard_all("ready", *["died", "ready"] * 3)


@pytest.mark.slow
def test_a_worker_that_hangs_in_a_step_is_ended(workers: Workers) -> None:
    """Two of its reports in a row show that."""
    pid = workers.next_one()
    stall = workers.supervisor.watchdog.stall
    stall.limit = -1.0  # with this limit, even an idle worker seems to hang
    eventually(lambda: "died" in workers.heard.calls, "it is ended")
    stall.limit = 60.0
    assert workers.next_one(pid)


@pytest.mark.slow
def test_a_server_that_did_not_run_for_some_time_ends_no_worker(workers: Workers) -> None:
    """As after Ctrl-Z and fg: the worker's last message is old, and its step seems long."""
    watchdog = workers.supervisor.watchdog
    pid, pings = workers.pid, watchdog.pings
    workers.clock.ahead += 3600.0
    watchdog.stall.reported(3600.0)
    eventually(lambda: watchdog.pings > pings + 1, "the watchdog has looked again")
    assert workers.pid == pid
    assert workers.heard.calls == ["ready"]


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("thread", ["worker-log", "load-limit"])
def test_a_model_for_which_the_system_never_starts_threads(
    make_workers: Callable[[Path], Workers],
    starter_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    thread: str,
) -> None:
    workers = make_workers(starter_path)
    no_threads(monkeypatch, thread)
    workers.supervisor.start()
    with pytest.raises(
        ModelLoadFailed, match="cannot start a process for it \\(can't start new thread"
    ):
        workers.readiness.wait()
    assert workers.readiness.load_failure is not None
    assert not workers.readiness.load_failure.lasting
    workers.heard_all("lost", "lost", "given up")


@pytest.mark.slow
def test_no_command_is_sent_before_the_load_command(
    make_workers: Callable[[Path], Workers], starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog may send a ping at the moment when a worker is started."""
    workers = make_workers(starter_path)

    class PingsAtOnce(threading.Timer):
        def start(self) -> None:
            workers.supervisor.watchdog.ping(1)
            super().start()

    monkeypatch.setattr(threading, "Timer", PingsAtOnce)
    workers.supervisor.start()
    assert workers.readiness.wait().n_parallel == 1


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_ended(workers: Workers) -> None:
    """The process exists but sends nothing."""
    pid = workers.next_one()
    os.kill(pid, signal.SIGSTOP)
    watchdog = workers.supervisor.watchdog
    pong_within, watchdog.pong_within = watchdog.pong_within, 0.0
    eventually(lambda: "died" in workers.heard.calls, "it is ended")
    watchdog.pong_within = pong_within
    assert workers.next_one(pid)


def test_a_process_that_no_signal_ends_does_not_keep_the_server(
    make_workers: Callable[[Path], Workers], starter_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that waits for a disk or a device that does not answer."""

    class Endless:
        pid = 4242
        killed = False

        def send(self, command: Command, *, wait: bool = True) -> None:
            assert not wait

        def wait(self, timeout: float | None = None) -> int:
            assert timeout is not None
            raise subprocess.TimeoutExpired("worker", timeout)

        def kill(self) -> None:
            self.killed = True

    workers, process = make_workers(starter_path), Endless()
    workers.readiness.process = process  # type: ignore[assignment]
    workers.supervisor.end_worker()
    assert process.killed
    assert "worker 4242 of model was killed and does not end" in caplog.text
    workers.readiness.process = None


# --- killed workers -------------------------------------------------------------------------------


@pytest.fixture
def kill_loading(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Kill the next workers before they have loaded, as another program would."""

    def arrange(times: int) -> None:
        left = [times]
        begin = Readiness.begin

        def killing(self: Readiness, process: WorkerProcess) -> None:
            begin(self, process)
            if left[0] > 0:
                left[0] -= 1
                os.kill(process.pid, signal.SIGKILL)

        monkeypatch.setattr(Readiness, "begin", killing)

    return arrange


@pytest.fixture
def memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel seem to count a kill for lack of memory after each start of a worker."""
    counts = iter(range(100))
    monkeypatch.setattr("offgrid.engine.client.process.oom_kills", lambda: (7, next(counts)))


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_is_killed_while_it_loads_is_replaced_once(
    make_workers: Callable[[Path], Workers],
    starter_path: Path,
    kill_loading: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = make_workers(starter_path)
    kill_loading(1)
    workers.supervisor.start()
    workers.readiness.wait()
    assert "worker of model ended with status -9 while loading" in caplog.text
    assert "model is loaded once more" in caplog.text
    workers.heard_all("ready")


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_is_killed_twice_while_it_loads_is_not_replaced(
    make_workers: Callable[[Path], Workers], starter_path: Path, kill_loading: Callable[[int], None]
) -> None:
    workers = make_workers(starter_path)
    kill_loading(5)
    workers.supervisor.start()
    with pytest.raises(ModelLoadFailed, match="its process was killed twice while loading it"):
        workers.readiness.wait()
    failure = workers.readiness.load_failure
    assert failure is not None
    assert not failure.lasting
    assert not failure.costly


@pytest.mark.usefixtures("memory_runs_out")
def test_a_worker_for_which_memory_does_not_suffice_is_not_replaced(
    make_workers: Callable[[Path], Workers],
    starter_path: Path,
    kill_loading: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = make_workers(starter_path)
    kill_loading(5)
    workers.supervisor.start()
    with pytest.raises(ModelLoadFailed, match=r"because memory ran out .out of memory.. Lower OFF"):
        workers.readiness.wait()
    assert "was killed because memory ran out while loading" in caplog.text
    assert workers.readiness.load_failure is not None
    assert workers.readiness.load_failure.costly
    workers.heard_all("given up")


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses", "memory_runs_out")
@pytest.mark.parametrize("again", few(1, [True, False]))
def test_a_worker_whose_memory_runs_out_twice_is_not_replaced(
    workers: Workers, again: bool
) -> None:
    """If the second time comes soon after the first."""
    first = workers.next_one()
    os.kill(first, signal.SIGKILL)
    second = workers.next_one(first)
    workers.heard_all("ready", "died of memory", "ready")
    workers.clock.ahead += 60.0 if again else 3600.0
    os.kill(second, signal.SIGKILL)
    if again:
        eventually(lambda: "given up" in workers.heard.calls, "no more is started")
        with pytest.raises(ModelLoadFailed, match="killed its process twice because memory"):
            workers.readiness.wait()
    else:
        workers.next_one(first, second)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("how", ["overwritten", "replaced"])
def test_a_worker_that_dies_after_its_file_was_changed(
    make_workers: Callable[[Path], Workers],
    starter_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """A file that was overwritten is named as the cause; one that was replaced is harmless."""
    file = tmp_path / "model.gguf"
    shutil.copy(starter_path, file)
    workers = make_workers(file)
    workers.supervisor.start()
    workers.readiness.wait()
    if how == "replaced":
        file.unlink()
    shutil.copy(starter_path, file)
    os.utime(file, ns=(0, 0))
    first = workers.next_one()
    workers.supervisor.kill()
    workers.next_one(first)
    cause = " The file of the model was overwritten while it was served."
    workers.heard_all("ready", f"died{cause * (how == 'overwritten')}", "ready")
    assert ("after its file was overwritten" in caplog.text) == (how == "overwritten")


@pytest.mark.slow
@pytest.mark.usefixtures("memory_runs_out")
def test_a_worker_that_the_server_kills_did_not_run_out_of_memory(workers: Workers) -> None:
    first = workers.next_one()
    workers.supervisor.kill()
    workers.next_one(first)
    workers.heard_all("ready", "died", "ready")
