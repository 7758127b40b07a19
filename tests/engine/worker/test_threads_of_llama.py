"""The number of threads reaches llama.cpp and changes no bit of the logits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_runs import Run

from offgrid.engine import processors
from offgrid.engine.client.process import _environment
from offgrid.engine.processors import Cores, cores
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import EmbeddingRequest
from offgrid.engine.worker.drafts.model import DraftModel
from offgrid.engine.worker.embedder import EmbeddingJob
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.threads import loop, neighbours
from offgrid.engine.worker.threads.control import Kind
from offgrid.engine.worker.threads.loop import LoopThreads
from offgrid.engine.worker.threads.neighbours import Neighbours

PROMPT = np.arange(300, 340, dtype=np.int32)


@pytest.fixture
def automatic(starter_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The starter with an automatic number of threads, on a machine that seems to have 3 cores."""
    monkeypatch.setattr(processors, "cores", lambda: Cores(2, 3))
    model = Model(Load(str(starter_path), ctx_size=256, parallel=2, batch_size=64))
    yield model
    model.close()


def logits(model: Model, threads: int) -> list[bytes]:
    """Return the bits of a prefill's row, of a decoded row, and of two decoded rows."""
    model.use_threads(threads)
    found: list[bytes] = []

    def decode(rows: list[tuple[int, int, Any]]) -> None:
        model.batch.clear()
        indices = [model.batch.add(slot, start, tokens, 1) for slot, start, tokens in rows]
        model.decode()
        size = 4 * model.n_vocab
        found.extend(ctypes.string_at(model.logits(index), size) for index in indices)

    decode([(0, 0, PROMPT)])
    decode([(0, 40, PROMPT[:1])])
    decode([(1, 0, PROMPT[:20])])
    decode([(0, 41, PROMPT[1:2]), (1, 20, PROMPT[2:3])])
    for slot in (0, 1):
        model.forget(slot)
    return found


def test_the_number_changes_no_bit(automatic: Model) -> None:
    """llama.cpp divides rows of matrices, and never a sum, unless flash attention is on."""
    one, two, three = (logits(automatic, threads) for threads in (1, 2, 3))
    assert len(one) == 5
    assert one == two == three


class Chosen(LoopThreads):
    """Chooses a number by the kind of step, and notes the steps."""

    def __init__(self) -> None:
        super().__init__(0)
        self.steps: list[tuple[Kind, int, int]] = []
        self.ended = 0

    def begin(self, kind: Kind, tokens: int, context: int) -> int:
        super().begin(kind, tokens, context)
        self.steps.append((kind, tokens, context))
        return {Kind.DECODE: 1, Kind.PREFILL: 2, Kind.EMBED: 3}[kind]

    def end(self) -> bool:
        self.ended += 1
        return super().end()


def test_each_step_gets_the_number_of_its_kind(automatic: Model) -> None:
    used: list[tuple[int, int]] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(automatic, name)

        def decode(self) -> None:
            used.append((len(automatic.batch), automatic.threads_in_use))
            automatic.decode()

    run = Run(Watched())
    engine: Engine = run.engine
    chosen = Chosen()
    engine.threads = engine.embedder._threads = chosen
    run.submit("once upon a time there was an otter", max_tokens=4, ignore_eos=True)
    run.finish()
    prefill, *decodes = chosen.steps
    assert prefill == (Kind.PREFILL, prefill[1], prefill[1])
    assert decodes == [(Kind.DECODE, 1, prefill[1] + number) for number in (1, 2, 3)]
    assert used == [(prefill[1], 2), (1, 1), (1, 1), (1, 1)]
    assert chosen.ended == 4

    job = EmbeddingJob(7, EmbeddingRequest(inputs=("an otter",), params=("input",)))
    for _ in engine.embedder.prepare(job):
        pass
    engine.submit(job)
    run.finish()
    assert chosen.steps[-1][0] is Kind.EMBED
    assert chosen.ended == 5


def test_the_draft_model_computes_with_the_number_of_the_steps(automatic: Model) -> None:
    draft = Model(automatic.load)
    run = Run(automatic, draft_model=DraftModel(draft, automatic.n_vocab))
    decode = run.engine.threads._threads._tuners[Kind.DECODE]
    for number in (1, 3):
        decode.number = number
        run.submit("once upon a time", max_tokens=2, ignore_eos=True)
        run.finish()
        assert draft.threads_in_use == number
    draft.close()


def test_the_loop_times_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that the loop does not end, because its decode failed, teaches nothing."""
    monkeypatch.setattr(processors, "cores", lambda: Cores(1, 2, fast=1))
    times = iter(range(100))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(times))))
    threads = LoopThreads(0)
    seen: list[tuple[Kind, int, float]] = []
    monkeypatch.setattr(
        threads._threads, "observe", lambda kind, work, took: seen.append((kind, work.tokens, took))
    )
    threads.begin(Kind.DECODE, 3, 10)
    threads.begin(Kind.PREFILL, 5, 10)
    threads.end()
    threads.end()
    ((kind, tokens, took),) = seen
    assert (kind, tokens) == (Kind.PREFILL, 5)
    assert took > 0
    assert threads.in_use == (1, 1)
    fixed = LoopThreads(3)
    assert (fixed.begin(Kind.DECODE, 1, 1), fixed.in_use) == (3, (3, 3))


# --- the machine ----------------------------------------------------------------------------------


def test_neighbours_are_all_but_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now, busy = [100.0], [50.0]
    monkeypatch.setattr(neighbours, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(neighbours, "_busy_seconds", lambda: busy[0])
    measured = Neighbours()
    now[0], busy[0] = 100.4, 52.0
    assert measured.measure() is None
    now[0] = 102.0
    assert measured.measure() == 1.0
    now[0], busy[0] = 103.0, 51.9  # the counters of the system have their own clock
    assert measured.measure() == 0.0
    limited = Neighbours(spare=2)
    now[0], busy[0] = 104.0, 55.4
    assert limited.measure() == pytest.approx(1.5)  # of 3.5 busy cores
    now[0], busy[0] = 200.0, 99.0
    limited.restart()
    now[0] = 201.0
    assert limited.measure() == 0.0
    monkeypatch.undo()
    before = neighbours._busy_seconds()
    assert neighbours._busy_seconds() >= before - 0.1


@pytest.mark.parametrize(
    ("limits", "quota", "expected"),
    [
        ((4, 8), None, Cores(4, 8)),
        ((4, 8), 1.5, Cores(1, 2)),
        ((4, 8), 0.5, Cores(1, 1)),
        ((4, 8), 16.0, Cores(4, 8)),
    ],
)
def test_limits_of_the_processors_hold(
    limits: tuple[int, int], quota: float | None, expected: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "processors", lambda: (*limits, quota))
    monkeypatch.setattr(processors, "_fast_cores", lambda: 0)
    assert cores() == expected


def test_fast_cores_are_counted_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fast cores with two logical processors each, and two slow ones."""
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(processors, "_CPUS", tmp_path)
    for cpu, siblings in enumerate(("0-1", "0-1", "2-3", "2-3", "4", "5")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
        (folder.parent / "cpu_capacity").write_text("1024\n" if cpu < 4 else "400\n")
    listed = tmp_path / "cpus"
    monkeypatch.setattr(processors, "_INTELS_FAST_CPUS", listed)
    assert processors._fast_cores() == 2
    listed.write_text("0-3\n")
    assert processors._fast_cores() == 2
    listed.write_text("0-3,4-5\n")
    assert processors._fast_cores() == 0


def test_the_user_decides_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert _environment()["GOMP_SPINCOUNT"] == "2000"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert _environment()["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert _environment()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert "GOMP_SPINCOUNT" not in _environment()
