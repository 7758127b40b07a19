"""Which models a memory budget allows at the same time, with real workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import structs
from support import eventually, together
from tiny_models import make

from offgrid.config import load_settings
from offgrid.engine.client.budget import Budget
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.memory import MIB
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.errors import ModelLoadFailed
from offgrid.store.catalogue import Catalogue

MakePool = Callable[..., EnginePool]
MODELS = "abcdef"
ONCE = GenerationRequest(parts=(PromptPart("Once", True),), max_tokens=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_pool(tiny: Path, tmp_path: Path) -> Iterator[MakePool]:
    """Make pools with models that are copies of one file. ``models`` of them fit into memory."""
    for name in MODELS:
        (tmp_path / f"{name}.gguf").symlink_to(tiny)
    pools: list[EnginePool] = []

    def make_one(models: float, **flags: Any) -> EnginePool:
        given = {"models_dir": tmp_path, "ctx_size": 512, "parallel": 1, "threads": 1, **flags}
        probe = load_settings(given, environ={})
        entry = Catalogue(probe).get("a")
        needs = EnginePool(probe, Catalogue(probe)).fit(entry).needs
        settings = load_settings({**given, "memory_budget": int(models * needs) // MIB}, environ={})
        pools.append(EnginePool(settings, Catalogue(settings)))
        return pools[-1]

    yield make_one
    for pool in pools:
        pool.shutdown(0.0)


def names(pool: EnginePool) -> set[str]:
    return {client.name for client in pool.loaded()}


def answer(pool: EnginePool, model: str) -> None:
    """Answer a request as the API does."""
    pool.begin_visit()
    try:
        generation = pool.engine(model).submit(ONCE)
    finally:
        pool.end_visit()
    while not generation.finished:
        generation.next(10)
    assert not generation.failed


@pytest.fixture
def most_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the worker processes of the pool that exist whenever one is started."""
    counts: list[int] = []
    others = len(psutil.Process().children())
    start = EngineClient.start

    def counted(self: EngineClient) -> None:
        counts.append(1 + len(psutil.Process().children()) - others)
        start(self)

    monkeypatch.setattr(EngineClient, "start", counted)
    return lambda: max(counts)


@pytest.mark.slow
def test_two_models_under_a_budget_that_holds_one(
    make_pool: MakePool, most_workers: Callable[[], int]
) -> None:
    """They serve alternating requests. The old process has ended when the next one starts."""
    pool = make_pool(1.5)
    for model in "abab":
        answer(pool, model)
        assert names(pool) == {model}
    assert most_workers() == 1


@pytest.mark.slow
def test_two_clients_at_once_under_a_budget_that_holds_one(make_pool: MakePool) -> None:
    pool = make_pool(1.5)

    def client(model: str) -> None:
        for _ in range(2):
            answer(pool, model)

    together([lambda: client("a"), lambda: client("b")])


@pytest.mark.slow
def test_two_clients_at_once_with_one_model_at_most(make_pool: MakePool) -> None:
    pool = make_pool(64, max_models=1)

    def client(model: str) -> None:
        for _ in range(2):
            answer(pool, model)

    together([lambda: client("a"), lambda: client("b")])
    assert len(names(pool)) == 1


@pytest.mark.slow
def test_six_models_at_once_with_room_for_three(
    make_pool: MakePool, most_workers: Callable[[], int]
) -> None:
    pool = make_pool(3.5, max_models=6)
    together([lambda model=model: answer(pool, model) for model in MODELS])
    assert len(names(pool)) == 3
    assert most_workers() == 3


def test_the_least_recently_used_model_makes_room(make_pool: MakePool) -> None:
    pool = make_pool(3.5, max_models=6)
    for model in "abca":
        answer(pool, model)
    answer(pool, "d")
    assert names(pool) == {"a", "c", "d"}


@pytest.mark.slow
def test_a_request_wins_over_unloading(make_pool: MakePool) -> None:
    """A model that is to leave, but is asked for while it is idle, is used first."""
    pool = make_pool(1.5)
    pool.begin_visit()
    client = pool.engine("a")
    other = threading.Thread(target=answer, args=(pool, "b"))
    other.start()
    eventually(lambda: pool.waiting() == ["b"], "b waits")
    generation = client.submit(ONCE)
    while not generation.finished:
        generation.next(10)
    assert not generation.failed
    assert names(pool) == {"a"}
    pool.end_visit()
    other.join(60)
    assert names(pool) == {"b"}


def test_a_model_that_does_not_fit_is_refused_before_any_process_starts(
    make_pool: MakePool, most_workers: Callable[[], int]
) -> None:
    pool = make_pool(0.5)
    pool.start()
    with pytest.raises(ModelLoadFailed, match=r"cannot be loaded: it needs \d+ MiB for 1 slot"):
        answer(pool, "a")
    with pytest.raises(ValueError, match="max"):
        most_workers()
    assert not pool.fit(Catalogue(pool._settings).get("a")).fits


def test_a_worker_with_flash_attention_keeps_no_memory_for_scores(make_pool: MakePool) -> None:
    """Before it is ready, it is not known what it will choose; the next one may choose again."""
    pool = make_pool(1.5)
    entry = Catalogue(pool._settings).get("a")
    unknown = pool.fit(entry)
    answer(pool, "a")
    assert pool.fit(entry).keeps == unknown.keeps, "small models have scores"
    client = pool.engine("a")
    client._readiness.serve(structs.replace(client.info, flash_attention=True))
    assert pool.fit(entry).keeps < unknown.keeps
    assert pool.fit(entry).load == unknown.load
    client.kill()
    eventually(lambda: pool.fit(entry).keeps == unknown.keeps, "the next worker has its own")


def test_a_model_that_can_never_fit_costs_no_other_one(make_pool: MakePool) -> None:
    pool = make_pool(1.5)
    answer(pool, "a")
    pool.roster.budget = Budget(1)
    with pytest.raises(ModelLoadFailed, match="cannot be loaded: it needs"):
        answer(pool, "b")
    assert names(pool) == {"a"}
    answer(pool, "a")
