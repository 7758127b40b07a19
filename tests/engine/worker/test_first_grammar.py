"""When a worker prepares for grammars: while it is idle, or for the first one."""

from __future__ import annotations

import io
from typing import Any

import pytest
from engine_runs import GREEDY, Counting, Run

from offgrid.engine.protocol.commands import Submit
from offgrid.engine.protocol.events import EngineEvent, Failed
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


class LongToken:
    """A model with a token that is too long for llguidance, which panics."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.made = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def vocab_pieces(self) -> list[bytes]:
        self.made += 1
        return [*self._model.vocab_pieces()[:-1], b"x" * 1025]


def test_a_vocabulary_that_allows_no_grammars(
    loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread must survive: otherwise requests with grammars would wait without end."""
    monkeypatch.setattr(lanes, "_QUIET", 0.001)
    model, events = LongToken(loaded), list[EngineEvent]()
    writer = Writer(io.BytesIO())
    monkeypatch.setattr(writer, "events", events.extend)
    compiler = lanes.Lanes(writer, Run(model).engine)
    assert compiler._ready_when_idle() is None
    for id in (1, 2):
        compiler._compile_for(queued(compiler, with_grammar(id)))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.id for event in failed] == [1, 2]
    assert {(event.error, event.message) for event in failed} == {
        (
            "InvalidParameter",
            "The regular expression cannot be used: this model's vocabulary does not allow it.",
        )
    }
    assert model.made == 1
    assert not compiler.busy


@pytest.mark.parametrize("lane", ["tokeniser", "compiler"])
def test_a_panic_ends_one_request(run: Run, monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    """A panic of a library in Rust is an exception, but no Exception."""

    class Panic(BaseException):
        pass

    def panics(id: int, request: GenerationRequest) -> None:
        raise Panic

    events: list[EngineEvent] = []
    writer = Writer(io.BytesIO())
    monkeypatch.setattr(writer, "events", events.extend)
    monkeypatch.setattr(run.engine, "prepare", panics)
    threads = lanes.Lanes(writer, run.engine)
    if lane == "compiler":
        threads._compile_for(queued(threads, with_grammar(1)))
    else:
        threads.enqueue(Submit(1, GenerationRequest(parts=(PromptPart("Once", True),))))
        threads.tokenise_next()
    assert isinstance(events[-1], Failed)
    assert events[-1].error == "EngineFault"
    assert not threads.busy


def queued(threads: lanes.Lanes, command: Submit) -> Submit:
    """Queue a request for the compiler; return it."""
    threads.enqueue(command)
    return threads._to_compile.get()
