"""What a worker tells of itself, and how its log names requests."""

from __future__ import annotations

import ctypes
import logging
from types import FrameType
from typing import Any

import pytest
from engine_runs import Run
from fake_sequences import Fake
from interruptions import interrupted

from offgrid.engine.protocol.events import Failed
from offgrid.engine.worker.figures import figures_of
from offgrid.engine.worker.llama.build import devices, gpus
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.scheduler.plan import Scheduler

LOAD = {"ctx_size": 256, "parallel": 2}


def test_an_engine_without_requests(run: Run) -> None:
    figures = figures_of(run.engine)
    assert (figures.steps, figures.prefilled, figures.generated, figures.cells) == (0, 0, 0, 0)


def test_tokens_and_cells(run: Run) -> None:
    """A finished sequence leaves its prefix in the slot."""
    one = run.submit("Once upon a time there was a little girl", max_tokens=10, ignore_eos=True)
    run.engine.step()
    during = figures_of(run.engine)
    assert during.steps == 1
    assert during.generated == 1
    prompt = during.prefilled
    assert prompt > 5
    assert during.cells == prompt
    run.finish()
    after = figures_of(run.engine)
    assert (after.prefilled, after.generated) == (prompt, 10)
    assert after.cells == prompt + 9  # the last token was not computed
    assert after.steps <= 10  # a step with drafts adds several tokens
    assert run.text(one)


def test_a13_a_preemption_is_counted(run: Run) -> None:
    """A13: cells that run out are visible in the figures."""
    run.submit("Once upon a time", max_tokens=5)
    run.engine.step()
    (sequence,) = run.engine.scheduler.running
    run.engine.scheduler.preempt(sequence)
    assert figures_of(run.engine).preempted == 1
    run.finish()
    assert figures_of(run.engine).generated == 5


def test_the_loop_goes_on_while_another_thread_looks(run: Run) -> None:
    """The thread that answers pings looks; an error would end it, and then the worker."""
    scheduler: Scheduler[Any] = run.engine.scheduler
    changes: list[Fake] = []

    def change() -> None:
        changes.append(Fake(9, 5, owner=f"caller {len(changes)}"))
        scheduler.waiting.append(changes[-1])
        slot, _ = next(iter(scheduler.idle))
        scheduler.idle.put(slot, scheduler.idle.take(slot))

    def is_engine(frame: FrameType) -> bool:
        return ".engine.worker." in frame.f_globals["__name__"]

    change()
    with interrupted(change, is_engine):
        figures = figures_of(run.engine)
        waiting = len(scheduler.waiting)
    assert len(figures.slots) == LOAD["parallel"]
    assert 1 <= waiting <= len(changes)
    assert len(changes) > 5
    scheduler.waiting.remove(changes)


class Broken:
    """A model whose logits are not numbers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._row = (ctypes.c_float * model.n_vocab)(*[float("nan")] * model.n_vocab)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, index: int) -> int:
        return ctypes.addressof(self._row)


@pytest.mark.parametrize(("label", "named"), [("mine-7", r"1 (mine-7)"), ("", "1")])
def test_the_log_names_a_request_as_its_client_does(
    model: Model, caplog: pytest.LogCaptureFixture, label: str, named: str
) -> None:
    run = Run(Broken(model))
    id = run.submit("Once", label=label)
    with caplog.at_level(logging.ERROR):
        run.finish()
    assert isinstance(run.last(id), Failed)
    assert caplog.messages[0].startswith(f"request {named}: ")


def test_only_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    build = "offgrid.engine.worker.llama.build"
    monkeypatch.setattr(f"{build}.lc.llama_supports_gpu_offload", lambda: True)
    assert devices()[0].kind == "cpu"
    assert all(device.kind == "gpu" and device.total for device in gpus())
    monkeypatch.setattr(f"{build}.lc.llama_supports_gpu_offload", lambda: False)
    assert gpus() == ()
