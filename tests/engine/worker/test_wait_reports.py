"""What the worker tells of requests that wait: their places in the queue, and their prefill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_runs import Run
from tiny_models import make

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, Queued
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.progress import REPORT_SECONDS, WaitReports

NOW = 1000.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = make("llama", tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=512, parallel=1, batch_size=32, threads=1))
    yield model
    model.close()


def reported(run: Run, reports: WaitReports, now: float) -> list[Queued]:
    """Return the events of one report."""
    found: list[Queued] = []
    outbox = Outbox(lambda events: found.extend(e for e in events if isinstance(e, Queued)), 0.0)
    reports.report(run.engine.scheduler, outbox, now)
    outbox.push()
    return found


def test_streams_that_wait_hear_their_place_and_their_prefill(model: Model) -> None:
    run = Run(model)
    first = run.submit("the otter " * 60, owner="a", report_wait=True)
    second = run.submit("the fox", owner="a", report_wait=True)
    run.submit("the house", owner="a")  # it is not streamed
    third = run.submit("the river", owner="b", report_wait=True)
    run.engine.step()
    reports = WaitReports()
    assert reported(run, reports, NOW) == [
        Queued(third, 1, 3),
        Queued(second, 2, 3),
        Queued(first, processed=32),
    ]
    assert reported(run, reports, NOW + REPORT_SECONDS / 2) == []
    run.engine.step()
    assert Queued(first, processed=64) in reported(run, reports, NOW + REPORT_SECONDS)
    while not any(isinstance(event, Delta) and event.text for event in run.events):
        run.engine.step()
    later = reported(run, reports, NOW + 2 * REPORT_SECONDS)
    assert [event.id for event in later] == [third, second]
    run.finish()
    assert reported(run, reports, NOW + 3 * REPORT_SECONDS) == []
