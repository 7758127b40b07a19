"""A worker process as the server sees it: what is written to it, and what its end tells."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from interruptions import interrupted
from support import TIMEOUT

from offgrid.engine.client.blame import Blame
from offgrid.engine.client.places import Places
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import Readiness
from offgrid.engine.client.requests import Requests
from offgrid.engine.client.turnover import Turnover
from offgrid.engine.protocol.commands import Load, Ping, Submit
from offgrid.engine.protocol.reports import Pong, Ready, Report
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart

TOKENS = 500


@pytest.fixture
def process(tiny: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess(Load(str(tiny), ctx_size=512, parallel=1, threads=1))
    yield process
    process.end()


def test_a_stream_that_is_collected_while_its_thread_writes_is_cancelled(
    process: WorkerProcess,
) -> None:
    """Its end writes too, and must not wait for the write that it has interrupted."""
    readiness = Readiness(load_timeout=60, most_waiting=1)
    readiness.process = process
    places = Places(1, 1, readiness)
    requests = Requests(readiness, places, Blame(), Turnover(1, lambda: 0.0))
    reports: Iterator[Report] = itertools.chain.from_iterable(process.reports())

    def answer(number: int) -> Pong:
        return next(r for r in reports if isinstance(r, Pong) and r.number == number)

    def asked(number: int) -> Pong:
        process.send(Ping(number))
        return answer(number)

    def writes(frame: FrameType) -> bool:
        return frame.f_code is WorkerProcess.send.__code__

    def ping_and_cancel() -> None:
        with interrupted(lambda: requests.send_cancel(1), writes):
            process.send(Ping(1))

    assert any(isinstance(report, Ready) for report in reports)
    parts = (PromptPart("Once", True),)
    process.send(Submit(1, GenerationRequest(parts=parts, max_tokens=TOKENS, ignore_eos=True)))
    numbers = itertools.count(2)
    while not asked(next(numbers)).running:
        pass
    writer = threading.Thread(target=ping_and_cancel, daemon=True)
    writer.start()
    writer.join(TIMEOUT)
    assert not writer.is_alive()
    assert answer(1).number == 1
    while (pong := asked(next(numbers))).running:
        pass
    assert pong.figures.generated < TOKENS


def test_a_worker_that_an_unexpected_error_ends_leaves_its_trace(tiny: Path) -> None:
    process = WorkerProcess(Load(str(tiny), ctx_size=256, cache_dir="\0", cache_disk=1))
    for _ in process.reports():
        pass
    assert process.wait(TIMEOUT) > 0  # no signal
    process.close()
    first, *_, last = process.trace().split("\n")
    assert first == "its last words:"
    assert "Traceback (most recent call last):" in process.trace()
    assert last == "ValueError: embedded null byte"
    assert process.reason() == "Last error: ValueError: embedded null byte"


def test_the_last_words_while_lines_are_still_added(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a worker that has ended may go on for a moment."""
    log: deque[str] = deque(["error: one", "error: two"], maxlen=200)
    process._log = log

    def telling(line: str) -> bool:
        log.append("as another thread does at this moment")
        return line.startswith("error")

    monkeypatch.setattr("offgrid.engine.client.process._tells", telling)
    assert process.reason() == "Last error: error: two"
