"""Frames of events: tokens of quick steps share one, everything else is sent at once."""

from __future__ import annotations

import msgspec
import pytest
from engine_runs import GREEDY, Counting
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.protocol.events import Accepted, Delta, EngineEvent, Failed, Started
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest
from offgrid.engine.worker.embedder import EmbeddingJob
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.outbox import Outbox

HOLD = 0.02


class Simulated:
    """An outbox with a clock that a test moves, and the frames with their times."""

    def __init__(self, hold: float = HOLD) -> None:
        self.now = 100.0
        self.frames: list[tuple[float, tuple[EngineEvent, ...]]] = []
        self.outbox = Outbox(lambda e: self.frames.append((self.now, e)), hold, lambda: self.now)

    def step(self, seconds: float, *events: EngineEvent) -> None:
        """A step that brings events, and is followed by one that takes as long."""
        self.outbox.push_new()
        self.now += seconds
        for event in events:
            self.outbox.add(event)
        self.outbox.push_or_hold(seconds)


def token(number: int, **fields: str) -> Delta:
    return Delta(1, 0, "x", number, **fields)


def sizes(simulated: Simulated) -> list[int]:
    return [len(events) for _, events in simulated.frames]


def test_tokens_of_quick_steps_share_a_frame() -> None:
    simulated = Simulated()
    for number in range(1, 11):
        simulated.step(0.007, token(number))
    assert sizes(simulated) == [1, 2, 2, 2, 2]  # and one is held


def test_slow_steps_are_sent_at_once() -> None:
    simulated = Simulated()
    for number in range(1, 6):
        simulated.step(0.011, token(number))
    assert sizes(simulated) == [1, 1, 1, 1, 1]


def test_without_a_hold_every_step_is_sent() -> None:
    simulated = Simulated(hold=0.0)
    for number in range(1, 6):
        simulated.step(1e-6, token(number))
    assert sizes(simulated) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "event",
    [Started(2, computing=True), Accepted(2, 5, 1), Failed(2, "EngineFault", "x"), token(1),
     token(9, finish_reason="stop")],
)  # fmt: skip
def test_everything_else_is_sent_at_once(event: EngineEvent) -> None:
    """With what is held, in order."""
    simulated = Simulated()
    simulated.step(0.001, token(2))
    simulated.step(0.001, token(3))
    simulated.step(0.001, event, token(4))
    assert [events for _, events in simulated.frames] == [
        (token(2),), (token(3), event, token(4))
    ]  # fmt: skip


def test_new_events_between_steps_are_sent_with_what_is_held() -> None:
    simulated = Simulated()
    simulated.step(0.001, token(2))
    simulated.step(0.001, token(3))
    simulated.outbox.push_new()
    assert sizes(simulated) == [1]
    simulated.outbox.add(Started(2, computing=True))
    simulated.outbox.push_new()
    assert sizes(simulated) == [1, 2]


@given(st.lists(st.floats(1e-4, 0.05), min_size=1, max_size=60))
def test_no_token_waits_longer_than_the_hold(steps: list[float]) -> None:
    """If each step takes as long as the one before it, at most; and none is lost or overtaken."""
    steps.sort(reverse=True)
    simulated = Simulated()
    added: list[float] = []
    for number, seconds in enumerate(steps, 1):
        simulated.step(seconds, token(number))
        added.append(simulated.now)
    simulated.outbox.push()
    sent = [(when, event) for when, events in simulated.frames for event in events]
    assert [event for _, event in sent] == [token(n) for n in range(1, len(steps) + 1)]
    assert all(when - begun <= HOLD + 1e-9 for (when, _), begun in zip(sent, added, strict=True))


def _timeless(event: EngineEvent) -> EngineEvent:
    return msgspec.structs.replace(event, times=None) if isinstance(event, Delta) else event


def test_an_engine_that_holds_tokens_sends_the_same_events(model: Counting) -> None:
    """Within an hour all tokens fit into one frame, between those of the first and of the last."""
    frames: list[tuple[EngineEvent, ...]] = []
    request = GenerationRequest(
        tokens=tuple(range(300, 310)), sampling=GREEDY, max_tokens=12, ignore_eos=True
    )
    events = []
    for hold in (0.0, 3600.0):
        frames.clear()
        engine = Engine(model, frames.append, hold=hold)
        engine.submit(engine.prepare(1, request))
        while engine.step():
            pass
        events.append([_timeless(event) for frame in frames for event in frame])
        deltas = [sum(isinstance(event, Delta) for event in frame) for frame in frames]
        model.forget(0)
    assert events[0] == events[1]
    assert deltas == [0, 1, 11]


class Noting(Counting):
    """A model that notes when a slot is prepared for a new sequence."""

    def __init__(self, model: Counting, notes: list[object]) -> None:
        super().__init__(model)
        self._notes = notes

    def forget(self, slot: int) -> None:
        self._notes.append("a slot is prepared")
        self._model.forget(slot)


def test_what_is_held_does_not_wait_for_the_slot_of_a_newcomer(model: Counting) -> None:
    """Preparing it may save one prefix and restore another."""
    notes: list[object] = []
    request = GenerationRequest(tokens=tuple(range(300, 310)), sampling=GREEDY, ignore_eos=True)
    engine = Engine(Noting(model, notes), notes.append, hold=3600.0)
    engine.submit(engine.prepare(1, request))
    for _ in range(5):
        engine.step()
    notes.clear()
    engine.submit(engine.prepare(2, request))
    engine.step()
    held, prepared, *_ = notes
    assert [type(event) for event in held] == [Delta] * 4
    assert prepared == "a slot is prepared"


def test_what_is_held_does_not_wait_for_inputs_to_be_embedded(
    model: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[object] = []
    request = GenerationRequest(tokens=tuple(range(300, 310)), sampling=GREEDY, ignore_eos=True)
    engine = Engine(model, notes.append, hold=3600.0)
    engine.submit(engine.prepare(1, request))
    for _ in range(5):
        engine.step()
    job = EmbeddingJob(2, EmbeddingRequest(("An otter swims. " * 9,), params=("input",)))
    list(engine.embedder.prepare(job))
    engine.submit(job)
    embed = engine.embedder.step

    def noting(budget: int | None) -> list[EngineEvent]:
        notes.append("inputs are computed")
        return embed(budget)

    monkeypatch.setattr(engine.embedder, "step", noting)
    notes.clear()
    engine.step()
    held, computed, *_ = notes
    assert [type(event) for event in held] == [Delta] * 4
    assert computed == "inputs are computed"
