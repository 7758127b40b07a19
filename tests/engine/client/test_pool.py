"""Which model is loaded, which one is unloaded for it, and which requests wait for that."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from pools import Clock, MakePool, hold, names, slow
from support import TIMEOUT, eventually, no_threads, together

from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.examination import Examination
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.reports import LoadFailed
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.errors import ModelLoadFailed, Overloaded


class Waiting:
    """A request that waits for a model."""

    def __init__(self, pool: EnginePool, model: str, log: list[str]) -> None:
        self.alive = True
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(pool, model, log))
        self._thread.start()

    def _run(self, pool: EnginePool, model: str, log: list[str]) -> None:
        try:
            pool.begin_visit()
            pool.engine(model, lambda: self.alive)
            log.append(model)
        except Exception as ex:
            self.error = ex
        finally:
            pool.end_visit()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def in_line(pool: EnginePool, *models: str) -> None:
    eventually(lambda: pool.waiting() == [*models], f"{models} wait")


def test_the_least_recently_used_idle_model_makes_room(make_pool: MakePool) -> None:
    pool = make_pool(max_models=2)
    for model in "ab":
        pool.engine(model)
    pool.engine("a")
    pool.engine("c")
    assert names(pool) == ["a", "c"]
    release = hold(pool.engine("a"))
    pool.engine("c")
    pool.engine("d")
    assert names(pool) == ["a", "d"]
    release()


@pytest.mark.slow
def test_loads_wait_in_the_order_in_which_they_were_asked_for(make_pool: MakePool) -> None:
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    log: list[str] = []
    waiting = [Waiting(pool, "b", log)]
    in_line(pool, "b")
    # The model to be unloaded accepts no new requests: they wait until after the load.
    eventually(lambda: pool.roster.leaving == "a", "it is to leave")
    waiting.append(Waiting(pool, "a", log))
    in_line(pool, "b", "a")
    waiting.append(Waiting(pool, "c", log))
    in_line(pool, "b", "a", "c")
    assert names(pool) == ["a"]
    release()
    for one in waiting:
        one.join()
        assert one.error is None
    assert log == ["b", "a", "c"]


@pytest.mark.slow
def test_another_model_that_becomes_idle_first_makes_room(make_pool: MakePool) -> None:
    """Then requests for the model that was to be unloaded are served at once."""
    pool = make_pool(max_models=2)
    hold(pool.engine("a"))
    release = hold(pool.engine("b"))
    log: list[str] = []
    new = Waiting(pool, "c", log)
    eventually(lambda: pool.roster.leaving == "a", "the least recently used one is to leave")
    back = Waiting(pool, "a", log)
    in_line(pool, "c", "a")
    release()
    for one in (new, back):
        one.join()
        assert one.error is None
    assert sorted(names(pool)) == ["a", "c"]


@pytest.mark.slow
def test_a_request_keeps_its_model_until_it_is_over(make_pool: MakePool) -> None:
    """It holds no place yet after getting the model: it may first count tokens, for example."""
    pool = make_pool(max_models=1)
    pool.begin_visit()
    client = pool.engine("a")
    log: list[str] = []
    other = Waiting(pool, "b", log)
    in_line(pool, "b")
    generation = client.submit(GenerationRequest(parts=(PromptPart("Once", True),), max_tokens=1))
    while not generation.finished:
        generation.next(10)
    assert not log
    pool.end_visit()
    other.join()
    assert names(pool) == ["b"]


@pytest.mark.slow
def test_a_client_that_stops_waiting_for_a_model_leaves_the_loaded_one_in_use(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    waiting = Waiting(pool, "b", [])
    eventually(lambda: pool.roster.leaving == "a", "it is to leave")
    waiting.alive = False
    waiting.join()
    assert isinstance(waiting.error, ClientGone)
    eventually(lambda: pool.roster.leaving is None, "it stays")
    pool.engine("a")
    release()
    assert names(pool) == ["a"]


@pytest.mark.slow
def test_the_requests_that_wait_for_a_model_are_limited(make_pool: MakePool) -> None:
    """Requests for one model take no place from requests for another."""
    pool = make_pool(max_models=1, queue_size=0)
    release = hold(pool.engine("a"))
    log: list[str] = []
    waiting = [Waiting(pool, "b", log)]
    in_line(pool, "b")
    with pytest.raises(Overloaded, match="too many requests already wait for it") as caught:
        pool.engine("b")
    assert "room for b now" in str(caught.value)
    waiting.append(Waiting(pool, "c", log))
    in_line(pool, "b", "c")
    release()
    for one in waiting:
        one.join()
        assert one.error is None
    assert log == ["b", "c"]


def test_a_request_that_waits_too_long_for_room_is_told_why(make_pool: MakePool) -> None:
    pool = make_pool(max_models=1)
    pool.engine("a")
    pool.line.room_timeout = 0.2
    release = hold(pool.engine("a"))
    with pytest.raises(Overloaded, match="No loaded model has made room for b") as caught:
        pool.engine("b")
    assert caught.value.code == "server_busy"
    assert caught.value.retry_after == 5
    release()


@pytest.mark.slow
def test_a_request_that_finds_no_room_is_told_when_a_model_is_idle(make_pool: MakePool) -> None:
    """As far as the answers until now tell: the first of the loaded models that will be idle."""
    pool = make_pool(max_models=2)
    a, b = (pool.engine(name) for name in "ab")
    release = [hold(a), hold(a), hold(b)]
    pool.line.room_timeout = 0.0
    slow(a, 8.0)
    assert no_room_for_c(pool) == 16
    slow(b, 12.0)
    assert no_room_for_c(pool) == 12
    slow(b, 300.0)
    slow(a, 300.0)
    assert no_room_for_c(pool) == 60
    for one in release:
        one()


def no_room_for_c(pool: EnginePool) -> int | None:
    with pytest.raises(Overloaded, match="No loaded model has made room for c") as caught:
        pool.engine("c")
    return caught.value.retry_after


@pytest.mark.slow
def test_when_requests_of_all_models_have_ended(make_pool: MakePool) -> None:
    """Idle models end none."""
    pool = make_pool(max_models=2)
    assert pool.retry_after(3) == 1, "nothing is known"
    a, b = (pool.engine(name) for name in "ab")
    slow(a, 10.0)
    slow(b, 10.0)
    assert pool.retry_after(3) == 1, "nothing runs"
    release = hold(a), hold(b)
    assert pool.retry_after(4) == 20
    release[1]()
    assert pool.retry_after(4) == 40
    assert pool.retry_after(100) == 60
    release[0]()


def test_waiting_requests_are_told_that_the_server_stops(make_pool: MakePool) -> None:
    pool = make_pool(max_models=1)
    hold(pool.engine("a"))
    waiting = Waiting(pool, "b", [])
    in_line(pool, "b")
    pool.drain()
    waiting.join()
    assert isinstance(waiting.error, Overloaded)
    assert waiting.error.code == "server_shutting_down"
    with pytest.raises(Overloaded, match="The server is stopping"):
        pool.engine("a")


def test_an_examination_cut_short_by_the_server_does_not_blame_the_file(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(max_models=1)
    hold(pool.engine("a"))
    run = Examination.run

    def stopped(self: Examination) -> LoadFailed | None:
        pool.drain()
        refusal = run(self)
        assert refusal is not None
        return refusal

    monkeypatch.setattr(Examination, "run", stopped)
    with pytest.raises(Overloaded, match="The server is stopping"):
        pool.engine("b")
    eventually(lambda: "loader" not in [t.name for t in threading.enumerate()], "it has ended")
    assert not pool.roster.failures


@pytest.mark.slow
def test_a_failed_load_is_not_repeated_at_the_cost_of_other_models(
    make_pool: MakePool,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For example for lack of memory, which no examination of the file detects."""
    pool = make_pool(max_models=1)
    pool.engine("a")
    started: list[str] = []
    start = EngineClient.start

    def fail(self: EngineClient) -> None:
        started.append(self.name)
        if self.name != "b":
            start(self)
            return
        self.supervisor.give_up(LoadFailed("no memory."))

    monkeypatch.setattr(EngineClient, "start", fail)
    with pytest.raises(ModelLoadFailed, match="no memory"):
        pool.engine("b")
    pool.engine("a")
    assert "a was unloaded for b, which could not be loaded" in caplog.text
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="no memory"):
            pool.engine("b")
    assert started == ["b", "a"]
    # Minutes later it may succeed.
    monkeypatch.setattr(EngineClient, "start", start)
    clock.ahead += 300.0
    pool.engine("b")
    assert names(pool) == ["b"]


@pytest.mark.slow
def test_no_request_waits_while_a_worker_is_ended(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped worker takes long to end."""
    pool = make_pool(max_models=2)
    pool.engine("a")
    pool.engine("b")
    closing, may_go_on = threading.Event(), threading.Event()
    close = EngineClient.close

    def slow(self: EngineClient, timeout: float = 0.0) -> None:
        closing.set()
        assert may_go_on.wait(60)
        close(self, timeout)

    monkeypatch.setattr(EngineClient, "close", slow)

    def ask() -> None:
        pool.engine("c")

    def others() -> None:
        assert closing.wait(60)
        pool.engine("b")
        assert names(pool) == ["b"]
        may_go_on.set()

    together([ask, others])
    assert names(pool) == ["b", "c"]


@pytest.mark.slow
def test_a_process_that_cannot_be_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even after three tries: the request is told, and the file is not blamed."""
    tries: list[str] = []

    def none(*args: Any, **options: Any) -> None:
        tries.append("process")
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr("subprocess.Popen", none)
    pool = make_pool()
    with pytest.raises(ModelLoadFailed, match="a cannot be loaded: the system cannot start"):
        pool.engine("a")
    assert len(tries) == 3
    pool.roster.bury()
    assert not pool.roster.failures["a"].failure.lasting


@pytest.mark.slow
def test_a_loader_that_cannot_be_started_is_started_by_the_next_request(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_models=1)
    pool.engine("a")
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, "loader")
        with pytest.raises(
            Overloaded, match="The system cannot start a thread for this request now"
        ):
            pool.engine("b")
    assert not pool.waiting()
    pool.engine("b")
    assert names(pool) == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["engine-supervisor", "engine-watchdog"])
def test_a_model_whose_threads_cannot_be_started_leaves_none(
    make_pool: MakePool, name: str
) -> None:
    pool = make_pool()
    before = {*threading.enumerate()}
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, name)
        with pytest.raises(Overloaded, match="The system cannot start a thread"):
            pool.engine("a")
    eventually(lambda: {*threading.enumerate()} <= before, "none of its threads is left")
    pool.engine("a")


def test_a_server_without_threads_starts_and_loads_its_model_when_asked(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, "engine-supervisor")
        pool.start()
    assert pool.engine("a").ready


@pytest.mark.parametrize("have_threads", [True, False])
def test_a_model_that_cannot_be_ended_keeps_no_other_one(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, have_threads: bool
) -> None:
    """At the end of the server, all are ended at the same time: one whose worker is stuck takes
    seconds."""
    pool = make_pool(max_models=3)
    clients = [pool.engine(model) for model in "abc"]
    together_at_last = threading.Barrier(3 if have_threads else 1)
    close = EngineClient.close

    def failing(self: EngineClient, timeout: float = 0.0) -> None:
        together_at_last.wait(TIMEOUT)
        close(self, timeout)
        raise OSError("its worker cannot be ended")

    monkeypatch.setattr(EngineClient, "close", failing)
    if not have_threads:
        no_threads(monkeypatch, "engine-closing")
    pool.shutdown(0.0)
    assert [client.pid for client in clients] == [None] * 3
