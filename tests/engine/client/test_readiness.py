"""Waiting for a model's worker, without any worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest
from support import together

from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.protocol.reports import ModelInfo, Pong
from offgrid.errors import ModelLoadFailed, Overloaded

INFO = cast(ModelInfo, object())
WORKER = cast(WorkerProcess, object())


@pytest.fixture
def readiness() -> Readiness:
    return Readiness(load_timeout=60, most_waiting=0)


def wait_until(readiness: Readiness, change: Callable[[], None]) -> ModelInfo:
    """Wait in one thread, and call ``change`` in another as soon as the first one waits."""
    waits = threading.Event()

    def alive() -> bool:
        waits.set()
        return True

    def bring() -> None:
        assert waits.wait(60)
        change()

    info, _ = together([lambda: readiness.wait(alive), bring])
    return info


def test_a_waiting_request_is_served_when_a_worker_is_ready(readiness: Readiness) -> None:
    readiness.begin(WORKER)
    assert wait_until(readiness, lambda: readiness.serve(INFO)) is INFO
    assert readiness.wait(lambda: False) is INFO  # a ready worker is returned without waiting
    assert readiness.end()
    assert (readiness.ready, readiness.process, readiness.info) == (False, None, INFO)
    assert not readiness.end()


def test_a_waiting_request_is_told_why_the_model_does_not_load(readiness: Readiness) -> None:
    failure = LoadFailure("It cannot be loaded.", lasting=True)
    with pytest.raises(ModelLoadFailed, match="It cannot be loaded"):
        wait_until(readiness, lambda: readiness.give_up(failure))


def test_a_waiting_request_is_told_that_no_worker_will_be_started(readiness: Readiness) -> None:
    with pytest.raises(Overloaded, match="has just been unloaded"):
        wait_until(readiness, readiness.close)


def test_a_client_that_leaves_stops_waiting(readiness: Readiness) -> None:
    with pytest.raises(ClientGone):
        readiness.wait(lambda: False)


def test_the_number_of_waiting_requests_is_limited(readiness: Readiness) -> None:
    def refused() -> None:
        with pytest.raises(Overloaded, match="loading, 0 %; too many requests") as caught:
            readiness.wait()
        assert caught.value.code == "model_loading"
        readiness.serve(INFO)

    assert wait_until(readiness, refused) is INFO


def test_one_caller_does_not_keep_others_from_waiting(readiness: Readiness) -> None:
    def asked() -> None:
        with pytest.raises(Overloaded, match="too many requests"):
            readiness.wait()
        with pytest.raises(Overloaded, match="loading, 0 %; try again later"):
            readiness.wait(timeout=0.0, owner="other")
        readiness.serve(INFO)

    assert wait_until(readiness, asked) is INFO


def test_loading_has_a_time_limit() -> None:
    with pytest.raises(Overloaded, match="The model is loading, 0 %; try again later") as caught:
        Readiness(load_timeout=0, most_waiting=0).wait()
    assert caught.value.retry_after == 5


def test_a_request_that_does_not_wait_is_told_the_progress(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    readiness.begin(WORKER)
    monkeypatch.setattr(readiness, "_began", time.monotonic() + 60)  # however slow this machine is
    readiness.progress = 0.404
    with pytest.raises(Overloaded, match=r"is loading, 40 %; try again later\.") as caught:
        readiness.wait(timeout=0.0)
    assert caught.value.code == "model_loading"
    # No time has passed, so the rest takes none.
    assert caught.value.retry_after == 1
    assert wait_until(readiness, lambda: readiness.serve(INFO)) is INFO
    assert (readiness.progress, readiness.wait(timeout=0.0)) == (1.0, INFO)


def test_what_a_worker_said_holds_until_it_ends(readiness: Readiness) -> None:
    """Otherwise its running sequences would be shown, and its tokens counted once more, until the
    next one says something."""
    readiness.begin(WORKER)
    readiness.pulse.begin(0.0)
    readiness.pulse.heard(1.0, Pong(1, 0.0, running=2, waiting=3))
    assert readiness.pulse.latest is not None
    readiness.end()
    assert readiness.pulse.latest is None
    assert readiness.pulse.throughput(1.0) == (0.0, 0.0)
