"""When a worker prepares for grammars: while it is idle, or for the first one."""

from __future__ import annotations

import io

import pytest
from engine_runs import GREEDY, Counting, Run

from offgrid.engine.protocol.commands import Submit
from offgrid.engine.protocol.requests import GenerationRequest, Grammar, PromptPart
from offgrid.engine.worker import lanes
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.writer import Writer

LOAD = {"ctx_size": 64, "parallel": 1}


@pytest.fixture
def run(model: Counting) -> Run:
    return Run(model)


@pytest.fixture
def compiler(run: Run, monkeypatch: pytest.MonkeyPatch) -> lanes.Lanes:
    monkeypatch.setattr(lanes, "_QUIET", 0.001)
    return lanes.Lanes(Writer(io.BytesIO()), run.engine)


def with_grammar(id: int) -> Submit:
    request = GenerationRequest(
        parts=(PromptPart("Once", True),), sampling=GREEDY, grammar=Grammar("regex", "a+", "regex")
    )
    return Submit(id, request)


def test_an_idle_worker_prepares_at_once(compiler: lanes.Lanes, run: Run) -> None:
    grammars = run.engine._preparer._grammars
    assert grammars._tokenizer is None
    assert compiler._ready_when_idle() is None
    assert grammars._tokenizer is not None


def test_a_request_comes_first(
    compiler: lanes.Lanes, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for which the model was loaded is not delayed by preparations."""
    asked = []

    def is_idle(engine: object) -> bool:
        asked.append(engine)
        assert run.engine._preparer._grammars._tokenizer is None
        if len(asked) == 2:
            compiler._pending.add(1)  # the reader has taken a request, the loop does not know it
        if len(asked) == 4:
            compiler._pending.clear()
        return len(asked) > 1

    monkeypatch.setattr(type(run.engine), "is_idle", property(is_idle))
    assert compiler._ready_when_idle() is None
    assert len(asked) == 4
    assert run.engine._preparer._grammars._tokenizer is not None


def test_a_request_with_a_grammar_does_not_wait_for_an_idle_moment(
    compiler: lanes.Lanes, run: Run, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(run.engine), "is_idle", property(lambda engine: False))
    command = with_grammar(7)
    compiler._to_compile.put("", command)
    assert compiler._ready_when_idle() is command
    compiler._pending.add(command.id)
    compiler._compile_for(command)
    assert run.engine._preparer._grammars._tokenizer is not None
    run.finish()
    assert compiler._writer._stream.getvalue()  # type: ignore[attr-defined]
