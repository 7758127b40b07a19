"""How long models stay loaded, unloading by request, and the state that clients see."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from pools import Clock, MakePool, hold, names, status
from support import eventually, no_threads, together

from offgrid.engine.client import keeper
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.roster import Roster
from offgrid.engine.client.supervisor import Supervisor
from offgrid.engine.client.use import Use
from offgrid.engine.protocol.reports import LoadFailed
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.errors import ModelLoadFailed, ModelNotFound, Overloaded

HOUR = 3600.0
AT_ONCE = Use(wait=0.0)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_LOOK", 0.02)


def unloaded(pool: EnginePool, model: str) -> None:
    eventually(lambda: status(pool, model) == "unloaded", f"{model} is unloaded")


def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """A semaphore that each look of the keeper at the models releases."""
    looked = threading.Semaphore(0)
    due = Roster.due

    def counted(self: Roster) -> Any:
        found = due(self)
        looked.release()
        return found

    monkeypatch.setattr(Roster, "due", counted)
    return looked


def look_twice(looked: threading.Semaphore) -> None:
    """Wait until the keeper has looked at the models, from now on."""
    while looked.acquire(blocking=False):
        pass
    for _ in range(2):  # the first look may have begun before
        assert looked.acquire(timeout=60)


# --- loading --------------------------------------------------------------------------------------


def test_fifty_requests_at_the_same_moment_load_a_model_once(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = EngineClient.start
    monkeypatch.setattr(
        EngineClient, "start", lambda self: (started.append(self.name), start(self))[1]
    )
    pool = make_pool(queue_size=64)

    def ask() -> EngineClient:
        pool.begin_visit()
        try:
            return pool.engine("a")
        finally:
            pool.end_visit()

    clients = together([ask] * 50)
    assert started == ["a"]
    assert len({id(client) for client in clients}) == 1


def test_a_request_that_does_not_wait_begins_to_load_the_model(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(Overloaded, match=r"The model a is loading, \d+ %; try again") as caught:
        pool.engine("a", use=AT_ONCE)
    assert (caught.value.code, caught.value.status) == ("model_loading", 503)
    assert caught.value.retry_after is not None
    eventually(lambda: status(pool, "a") == "loaded", "it is loaded nevertheless")
    assert pool.engine("a", use=AT_ONCE).ready


@pytest.mark.slow
def test_a_request_that_does_not_wait_for_room_gets_a_place_in_the_line(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    for _ in range(2):
        with pytest.raises(Overloaded, match="The model b waits for room to be loaded") as caught:
            pool.engine("b", use=AT_ONCE)
        assert caught.value.code == "model_loading"
    assert (pool.waiting(), status(pool, "b")) == (["b"], "waiting")
    eventually(lambda: status(pool, "a") == "unloading", "it takes no more requests")
    release()
    eventually(lambda: status(pool, "b") == "loaded", "it is loaded although no request waits")
    assert names(pool) == ["b"]


@pytest.mark.slow
def test_a_load_without_waiting_is_given_up_when_no_room_comes(make_pool: MakePool) -> None:
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    pool.line.room_timeout = 0.0
    pool.load("b")
    eventually(lambda: not pool.waiting(), "it is given up")
    eventually(lambda: status(pool, "a") == "loaded", "the other one may go on")
    state = pool.status(pool._catalogue.get("b"))
    assert (state.status, state.error) == (
        "failed",
        "The model b was not loaded: no loaded model has made room for it within 0 s.",
    )
    release()
    # It is no reason to refuse a request, and is forgotten when the model is loaded.
    pool.line.room_timeout = 60.0
    assert pool.engine("b").ready
    pool.unload("b")
    assert status(pool, "b") == "unloaded"


@pytest.mark.slow
def test_the_progress_of_a_model_that_loads(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    seen: list[float] = []
    client = pool.engine("a")
    assert client.progress == 1.0
    state = pool.status(pool._catalogue.get("a"))
    assert (state.status, state.progress, state.error) == ("loaded", 1.0, None)
    # The worker reports the weights that it has read, in order.
    take = client.supervisor._take

    def watched(reports: Any) -> None:
        seen.extend(report.progress for report in reports if hasattr(report, "progress"))
        take(reports)

    monkeypatch.setattr(client.supervisor, "_take", watched)
    client.kill()
    eventually(lambda: len(seen) > 1 and client.ready, "the next worker has loaded it")
    assert seen == sorted(seen)
    assert 0.0 < seen[0] <= seen[-1] == 1.0


def test_a_model_that_cannot_be_loaded_says_so(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    monkeypatch.setattr(
        EngineClient, "start", lambda self: self.supervisor.give_up(LoadFailed("no memory."))
    )
    entry = pool._catalogue.get("a")
    with pytest.raises(ModelLoadFailed):
        pool.engine("a")
    for _ in range(2):  # as the roster knows it, and as it remembers it
        state = pool.status(entry)
        assert (state.status, state.progress) == ("failed", 0.0)
        assert state.error == "The model a cannot be loaded: no memory."
        pool.roster.bury()


# --- idle models ----------------------------------------------------------------------------------


def test_an_idle_model_is_unloaded_after_its_time(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    looked = looks(monkeypatch)
    pool = make_pool(keep_alive="1h")
    pid = pool.engine("a").pid
    look_twice(looked)
    clock.ahead += HOUR - 60
    look_twice(looked)
    assert pool.engine("a").pid == pid  # a use: the time begins again
    look_twice(looked)
    clock.ahead += HOUR - 60
    look_twice(looked)
    assert status(pool, "a") == "loaded"
    clock.ahead += 60
    unloaded(pool, "a")
    assert "unloading a, unused for 1h" in caplog.text
    assert pool.engine("a").pid != pid


def test_nothing_but_requests_to_a_model_keeps_it_loaded(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = looks(monkeypatch)
    pool = make_pool(keep_alive=60)
    pool.engine("a")
    look_twice(looked)
    clock.ahead += 59
    entry = pool._catalogue.get("a")
    pool.status(entry)
    pool.info("a")
    pool.loaded()
    pool.keep_alive(entry)
    pool.load_command(entry)
    pool.engine("a", use=Use(unload=False))  # GET /tokenizer_info
    look_twice(looked)
    clock.ahead += 1
    unloaded(pool, "a")


def test_a_stream_keeps_its_model_loaded(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = looks(monkeypatch)
    pool = make_pool(keep_alive=60)
    release = hold(pool.engine("a"))
    clock.ahead += HOUR
    look_twice(looked)
    assert status(pool, "a") == "loaded"
    release()
    look_twice(looked)
    assert status(pool, "a") == "loaded"  # the time begins when it is over
    clock.ahead += 60
    unloaded(pool, "a")


def test_a_request_wins_over_the_end_of_the_time(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is over, and the request comes before the keeper looks."""
    looked = looks(monkeypatch)
    pool = make_pool(keep_alive=60)
    client = pool.engine("a")
    look_twice(looked)
    pool.begin_visit()
    with pool._changed:
        clock.ahead += HOUR
        assert pool.roster.due() is not None
        assert pool.engine("a") is client
    look_twice(looked)
    assert client.ready
    pool.end_visit()
    look_twice(looked)
    assert client.ready
    clock.ahead += 60
    unloaded(pool, "a")


@pytest.mark.slow
def test_a_request_decides_how_long_its_model_stays(
    make_pool: MakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = looks(monkeypatch)
    pool = make_pool(keep_alive=60)
    pool.engine("a", use=Use(keep_alive=float("inf")))
    pool.engine("b")
    look_twice(looked)
    clock.ahead += HOUR
    unloaded(pool, "b")
    assert status(pool, "a") == "loaded"
    # Unloaded at once: after this request, which still finds it.
    client = pool.engine("b", use=Use(keep_alive=0.0))
    unloaded(pool, "b")
    assert not client.ready


def test_unloading_at_once_waits_for_the_answer(make_pool: MakePool) -> None:
    pool = make_pool(keep_alive=0)
    pool.begin_visit()
    client = pool.engine("a")
    request = GenerationRequest(parts=(PromptPart("Once", True),), max_tokens=3, ignore_eos=True)
    generation = client.submit(request)
    pool.end_visit()
    while not generation.finished:
        generation.next(10)
    unloaded(pool, "a")


@pytest.mark.slow
def test_settings_of_a_model_win_and_pins_hold(
    make_pool: MakePool,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    looked = looks(monkeypatch)
    file = tmp_path / "offgrid.toml"
    file.write_text('[models.a]\nkeep_alive = "2h"\n[models.b]\npin = true\nkeep_alive = 0')
    pool = make_pool(file, keep_alive=60, max_models=3)
    pool.start()
    for model in "abc":
        pool.engine(model)
    look_twice(looked)
    clock.ahead += 61
    unloaded(pool, "c")
    clock.ahead += 2 * HOUR
    unloaded(pool, "a")
    pool.engine("b", use=Use(keep_alive=0.0))
    clock.ahead += HOUR
    with pool._changed:
        assert not pool.roster.watched  # the keeper sleeps
        assert pool.roster.due() is None
    assert status(pool, "b") == "loaded"


@pytest.mark.slow
def test_a_pinned_model_makes_no_room(make_pool: MakePool, tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text("[models.a]\npin = true")
    pool = make_pool(file, max_models=2)
    pool.start()
    pool.engine("b")
    pool.engine("a")
    pool.engine("c")
    assert names(pool) == ["a", "c"]
    full = make_pool(file, max_models=1)
    full.start()
    with pytest.raises(Overloaded, match="b cannot be loaded: all loaded models are pinned"):
        full.engine("b")
    with pytest.raises(Overloaded, match="b cannot be loaded: all loaded models are pinned"):
        full.load("b")
    assert (full.waiting(), status(full, "b")) == ([], "unloaded")
    full.unload("a")  # a request may unload it all the same
    assert full.engine("b").ready


@pytest.mark.slow
def test_a_load_that_waits_after_others_tells_in_the_status_that_it_failed(
    make_pool: MakePool, tmp_path: Path, caplog: Any
) -> None:
    """When it was asked for, room was still possible."""
    file = tmp_path / "offgrid.toml"
    file.write_text("[models.a]\npin = true\n[models.b]\npin = true")
    pool = make_pool(file, max_models=2)
    pool.engine("a")
    release = hold(pool.engine("c"))
    pool.load("b")  # takes the place of c
    pool.load("d")
    assert pool.waiting() == ["b", "d"]
    release()
    eventually(lambda: not pool.waiting(), "both are settled")
    state = pool.status(pool._catalogue.get("d"))
    assert state.status == "failed"
    assert str(state.error).startswith("The model d cannot be loaded: all loaded models are pinned")
    assert str(state.error) in caplog.text
    pool.unload("a")
    assert pool.engine("d").ready


def test_pinned_models_without_room_are_named_at_start(
    make_pool: MakePool, tmp_path: Path, caplog: Any
) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text("[models.a]\npin = true\n[models.b]\npin = true")
    pool = make_pool(file, max_models=1)
    pool.start()
    assert names(pool) == ["a"]
    assert "The model b cannot be loaded: all loaded models are pinned" in caplog.text
    assert "at its first request" not in caplog.text
    assert status(pool, "b") == "failed"


@pytest.mark.slow
def test_a_pinned_model_that_can_take_the_place_of_the_default_is_loaded_later(
    make_pool: MakePool, tmp_path: Path, caplog: Any
) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text("[models.a]\npin = true")
    pool = make_pool(file, max_models=1, model="b")
    pool.start()
    assert "a will be loaded at its first request: others" in caplog.text
    pool.engine("a")
    assert names(pool) == ["a"]


@pytest.mark.slow
def test_the_log_tells_when_a_model_is_loaded_and_why_it_is_unloaded(
    make_pool: MakePool, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    pool = make_pool(max_models=1)
    pool.engine("a")
    pattern = re.compile(
        r"loaded a in \d+\.\d s; it needs up to \d+ MiB, with full contexts; "
        r"flash attention \w+ \(.*\)$",
        re.MULTILINE,
    )
    eventually(lambda: pattern.search(caplog.text) is not None, "the log has it")
    pool.engine("b")
    assert "unloading a to make room for b" in caplog.text
    release = hold(pool.engine("b"))
    pool.unload("b", wait=False)
    later = threading.Thread(target=lambda: pool.engine("b"))
    later.start()
    eventually(lambda: pool.waiting() == ["b"], "a later request waits")
    release()
    later.join(60)
    assert "unloading b, as a request asked" in caplog.text
    eventually(lambda: caplog.text.count("loaded b in ") == 2, "it is loaded again")


def test_without_a_thread_idle_models_stay_and_requests_are_answered(
    make_pool: MakePool, clock: Clock, caplog: Any
) -> None:
    pool = make_pool(keep_alive=60)
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, "keeper")
        assert pool.engine("a").ready
        assert "idle models stay loaded: " in caplog.text
        with pytest.raises(Overloaded, match="cannot start a thread"):
            pool.unload("a")
    pool.engine("a")
    unloaded_later = threading.Event()
    eventually(lambda: "keeper" in [t.name for t in threading.enumerate()], "it runs now")
    while not unloaded_later.is_set():
        clock.ahead += 60
        if status(pool, "a") == "unloaded":
            unloaded_later.set()


# --- unloading by request -------------------------------------------------------------------------


@pytest.mark.slow
def test_unloading_waits_for_running_requests_and_later_ones_load_it_again(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    client = pool.engine("a")
    release = hold(client)
    pool.unload("a", wait=False)
    assert status(pool, "a") == "unloading"
    assert client.ready
    later: list[EngineClient] = []
    thread = threading.Thread(target=lambda: later.append(pool.engine("a")))
    thread.start()
    eventually(lambda: pool.waiting() == ["a"], "a later request waits")
    assert client.ready
    release()
    thread.join(60)
    assert later[0].pid != client.pid
    assert not client.ready
    assert status(pool, "a") == "loaded"


def test_unloading_a_model_that_is_not_loaded_changes_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.unload("a")
    assert status(pool, "a") == "unloaded"
    with pytest.raises(ModelNotFound):
        pool.unload("nobody")


def test_unloading_ends_a_load_for_which_no_request_waits(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_begin_to_serve", lambda *_: None)  # it loads for ever
    pool = make_pool()
    pool.load("a")
    assert status(pool, "a") == "loading"
    pool.unload("a")
    assert (names(pool), status(pool, "a")) == ([], "unloaded")


@pytest.mark.slow
def test_unloading_takes_a_model_out_of_the_line(make_pool: MakePool) -> None:
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    pool.load("b")
    assert status(pool, "b") == "waiting"
    pool.unload("b")
    eventually(lambda: not pool.waiting(), "it waits no more")
    release()
    assert names(pool) == ["a"]


def test_a_client_that_leaves_does_not_stop_the_unloading(make_pool: MakePool) -> None:
    pool = make_pool()
    release = hold(pool.engine("a"))
    with pytest.raises(ClientGone):
        pool.unload("a", lambda: False)
    assert status(pool, "a") == "unloading"
    release()
    unloaded(pool, "a")


def test_a_server_that_stops_does_not_wait_for_unloading(make_pool: MakePool) -> None:
    pool = make_pool()
    hold(pool.engine("a"))
    pool.unload("a", wait=False)
    pool.drain()
    with pytest.raises(Overloaded, match="The server is stopping"):
        pool.unload("a")
    with pytest.raises(Overloaded, match="The server is stopping"):
        pool.load("b")


@pytest.mark.slow
def test_models_asked_for_at_once_with_room_for_one_are_all_answered(make_pool: MakePool) -> None:
    """While each is unloaded as soon as it is idle, besides making room."""
    pool = make_pool(max_models=1, keep_alive=0)

    def ask(model: str) -> str:
        pool.begin_visit()
        try:
            client = pool.engine(model)
            request = GenerationRequest(parts=(PromptPart("Once", True),), max_tokens=2)
            generation = client.submit(request)
            while not generation.finished:
                generation.next(10)
            return client.name
        finally:
            pool.end_visit()

    assert together([lambda model=model: ask(model) for model in "abc"]) == [*"abc"]


@pytest.mark.slow
def test_a_load_that_waits_for_room_keeps_its_time(make_pool: MakePool) -> None:
    """``keep_alive`` of a request that does not wait holds once the model is loaded."""
    pool = make_pool(max_models=1)
    release = hold(pool.engine("a"))
    pool.load("b", keep_alive=HOUR)
    with pytest.raises(Overloaded):  # another request leaves that as it is
        pool.engine("b", use=AT_ONCE)
    release()
    eventually(lambda: status(pool, "b") == "loaded", "it is loaded")
    assert pool.keep_alive(pool._catalogue.get("b")) == HOUR


@pytest.mark.slow
def test_no_further_model_is_unloaded_while_one_is_being_ended(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of the one that is unloaded by request is enough for the next one."""
    pool = make_pool(max_models=2)
    closing, may_close = threading.Event(), threading.Event()
    ending = pool.engine("b")
    pool.engine("a")
    close = ending.close

    def slow_close(timeout: float = 0.0) -> None:
        closing.set()
        assert may_close.wait(60)
        close(timeout)

    monkeypatch.setattr(ending, "close", slow_close)
    pool.unload("b", wait=False)
    assert closing.wait(60)
    looked = threading.Semaphore(0)
    place = pool.roster.place

    def counted(*args: Any) -> Any:
        looked.release()
        return place(*args)

    monkeypatch.setattr(pool.roster, "place", counted)
    pool.load("c")
    for _ in range(4):  # the loader has looked for room again and again
        assert looked.acquire(timeout=60)
    assert names(pool) == ["a"]
    may_close.set()
    eventually(lambda: status(pool, "c") == "loaded", "it is loaded")
    assert names(pool) == ["a", "c"]


def test_a_model_without_its_file_is_unloaded_when_it_is_asked_for(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    pool.engine("a")
    (tmp_path / "a.gguf").unlink()
    with pytest.raises(ModelNotFound):
        pool.engine("a")
    eventually(lambda: names(pool) == [], "its memory is free")


@pytest.mark.slow
def test_a_model_whose_file_was_spoiled_leaves_its_memory(
    make_pool: MakePool, tmp_path: Path
) -> None:
    """Requests that run finish first; later ones get the reason."""
    pool = make_pool()
    file = tmp_path / "a.gguf"
    whole = file.read_bytes()
    release = hold(pool.engine("a"))
    file.unlink()
    file.write_bytes(whole[:-1000])
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match="The model a cannot be loaded: the file is cut"):
            pool.engine("a")
    with pytest.raises(ModelLoadFailed, match=r"it has [\d,]+ of [\d,]+ bytes\.$"):
        pool.load("a")
    assert names(pool) == ["a"]
    release()
    eventually(lambda: names(pool) == [], "its memory is free")
    file.write_bytes(whole)
    assert pool.engine("a").ready
