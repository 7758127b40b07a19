"""Workers in turn: started, watched, ended and replaced, without any request."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support import eventually, no_threads

from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.supervisor import Listener, Supervisor
from offgrid.engine.protocol import EngineEvent, Load
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

    def died(self) -> bool:
        self.calls.append("died")
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


def test_a_worker_that_is_killed_while_idle_is_replaced_soon(workers: Workers) -> None:
    """The pause does not grow, however often that happens."""
    pids: list[int] = []
    for _ in range(3):
        pids.append(workers.next_one(*pids))
        workers.supervisor.kill()
    workers.next_one(*pids)
    assert workers.supervisor.pause <= 0.5
    assert workers.heard.calls == ["ready", *["died", "ready"] * 3]


def test_a_worker_that_hangs_in_a_step_is_ended(workers: Workers) -> None:
    """Two of its reports in a row show that."""
    pid = workers.next_one()
    workers.supervisor.stall.limit = -1.0  # with this limit, even an idle worker seems to hang
    eventually(lambda: "died" in workers.heard.calls, "it is ended")
    workers.supervisor.stall.limit = 60.0
    assert workers.next_one(pid)


def test_a_server_that_did_not_run_for_some_time_ends_no_worker(workers: Workers) -> None:
    """As after Ctrl-Z and fg: the worker's last message is old, and its step seems long."""
    pid, pings = workers.pid, workers.supervisor.pings
    workers.clock.ahead += 3600.0
    workers.supervisor.stall.reported(3600.0)
    eventually(lambda: workers.supervisor.pings > pings + 1, "the watchdog has looked again")
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
    eventually(lambda: workers.heard.calls == ["lost", "lost", "given up"], "it is told so")


def test_no_command_is_sent_before_the_load_command(
    make_workers: Callable[[Path], Workers], starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog may send a ping at the moment when a worker is started."""
    workers = make_workers(starter_path)

    class PingsAtOnce(threading.Timer):
        def start(self) -> None:
            workers.supervisor.ping(1)
            super().start()

    monkeypatch.setattr(threading, "Timer", PingsAtOnce)
    workers.supervisor.start()
    assert workers.readiness.wait().n_parallel == 1


def test_a_worker_that_is_stopped_is_ended(workers: Workers) -> None:
    """The process exists but sends nothing."""
    pid = workers.next_one()
    os.kill(pid, signal.SIGSTOP)
    pong_within, workers.supervisor.pong_within = workers.supervisor.pong_within, 0.0
    eventually(lambda: "died" in workers.heard.calls, "it is ended")
    workers.supervisor.pong_within = pong_within
    assert workers.next_one(pid)
