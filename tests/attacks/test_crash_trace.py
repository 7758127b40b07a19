"""A process that a signal from a library ends prints a trace on standard error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Child, all_gone, program
from support import TIMEOUT

from offgrid.engine.protocol.commands import Load, Ping
from offgrid.engine.protocol.frames import encode_frame, read_reports
from offgrid.engine.protocol.reports import Ready
from offgrid.store.catalogue import STARTER_PATH

Serve = Callable[..., Child]


def crash(child: Child) -> None:
    worker = child.worker()
    os.kill(child.process.pid, signal.SIGSEGV)
    assert child.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in child.err.text
    assert "waitress" in child.err.text  # the stacks of all threads, including waitress's
    all_gone([worker])


@pytest.mark.slow
def test_a_server_that_crashes_leaves_a_trace_and_no_worker(serve: Serve) -> None:
    child = serve()
    child.wait_ready()
    crash(child)


@pytest.mark.slow
def test_a_crash_under_waitress_serve_leaves_a_trace(tmp_path: Path) -> None:
    """The default run covers ``offgrid serve``."""
    child = Child(
        program("waitress-serve"), "--listen=127.0.0.1:0", "--call", "offgrid.app:create_app",
        cwd=tmp_path, OFFGRID_MODELS_DIR=str(tmp_path), OFFGRID_DEFAULT_MODEL="offgrid-starter",
    )  # fmt: skip
    try:
        child.err.find("Serving on")
        crash(child)
    finally:
        child.end()


def test_a_worker_whose_reader_fails_ends_at_once() -> None:
    """It would hear no command any more, and the server would wait for its answers to pings."""
    fails = "from offgrid.engine.worker import main; main.Worker._pong = lambda *_: 1 / 0; "
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{fails}main.main()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
    )  # fmt: skip
    with worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(encode_frame(Load(str(STARTER_PATH))) + encode_frame(Ping(1)))
        worker.stdin.flush()
        try:
            assert worker.wait(TIMEOUT) > 0
        finally:
            worker.kill()
        assert b"ZeroDivisionError" in worker.stderr.read()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGABRT,
        # test_workers.py sends SIGSEGV to the worker of a server.
        pytest.param(signal.SIGSEGV, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_a_worker_that_crashes_leaves_a_trace(number: signal.Signals, tmp_path: Path) -> None:
    """Failed assertions of llama.cpp raise SIGABRT."""
    worker = subprocess.Popen(
        [sys.executable, "-c", "from offgrid.engine.worker.main import main; main()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    with worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(encode_frame(Load(str(STARTER_PATH), parallel=1)))
        worker.stdin.flush()
        reports = (report for read in read_reports(worker.stdout) for report in read)
        assert any(isinstance(report, Ready) for report in reports)
        worker.send_signal(number)
        assert worker.wait(TIMEOUT) == -number
        assert worker.stderr is not None
        trace = worker.stderr.read()
    assert b"Fatal Python error: " in trace
    assert b"offgrid/engine/worker/main.py" in trace
