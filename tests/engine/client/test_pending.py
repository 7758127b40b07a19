"""The states of a request, without any worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from offgrid.engine.client.pending import Embedding, Generation, Hooks, Lookup, Pending, State
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.protocol.commands import Embed, LookUp, Submit
from offgrid.engine.protocol.events import (
    Accepted,
    Delta,
    Embedded,
    Failed,
    PromptToken,
    TokenResult,
)
from offgrid.engine.protocol.requests import (
    EmbeddingRequest,
    GenerationRequest,
    PromptPart,
    TokenQuery,
)
from offgrid.errors import EngineFault

WORKER = cast(WorkerProcess, object())
FAULT = Failed(1, "EngineFault", "It died.")
SCORES = (PromptToken(5, b"x"),)


class Kept:
    """Records the calls that a request makes to its registry."""

    def __init__(self) -> None:
        self.closed: list[Pending] = []
        self.cancelled: list[int] = []
        self.ended: list[tuple[int, int]] = []
        self.hooks = Hooks(
            threading.RLock(),
            self.closed.append,
            self.cancelled.append,
            lambda id, choice: self.ended.append((id, choice)),
        )


@pytest.fixture
def kept() -> Kept:
    return Kept()


def generation(kept: Kept, ended: Callable[[], None] = lambda: None, **fields: Any) -> Generation:
    request = GenerationRequest(parts=(PromptPart("Once", True),), **fields)
    return Generation("key", Submit(1, request), 1, kept.hooks, ended)


def test_a_choice_is_ended_without_ending_the_request(kept: Kept) -> None:
    one = generation(kept, n=2)
    one.end(1)
    assert kept.ended == [(1, 1)]
    assert not kept.closed
    assert not kept.cancelled
    assert not one.finished


def test_the_life_of_a_generation(kept: Kept) -> None:
    one = generation(kept, n=2)
    assert one.state is State.WAITING
    one.assign(WORKER)
    assert one.state is State.ASSIGNED
    one.advance(State.SENT)
    one.push(Accepted(1, 3, 7))
    assert one.state is State.SENT
    one.advance(State.STARTED)
    one.push(Delta(1, 0, "", 0, prompt=SCORES))
    assert one.state is State.SCORED
    one.push(Delta(1, 0, "a", 1, "stop"))
    assert one.state is State.ANSWERING
    one.push(Delta(1, 1, "b", 1, "stop"))
    assert one.state is State.COMPLETE
    # Its client has read none of these events yet.
    assert not one.finished
    assert not kept.closed
    assert [delta.text for delta in one.next(0.0) or ()] == ["", "a", "b"]
    assert one.finished
    assert kept.closed == [one]


def test_no_state_returns_except_for_the_next_worker(kept: Kept) -> None:
    one = generation(kept)
    one.assign(WORKER)
    one.advance(State.STARTED)
    one.advance(State.SENT)
    assert one.state is State.STARTED
    one.again()
    assert (one.state, one.worker, one.retried) == (State.WAITING, None, True)


@pytest.mark.parametrize(("state", "late"), [(State.STARTED, False), (State.SENT, True)])
def test_a_request_whose_worker_died_waits_for_a_slot_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, state: State, late: bool
) -> None:
    """If it had one, however long that was; not if it has waited all the time."""
    now = [100.0]
    monkeypatch.setattr("offgrid.engine.client.pending.time.monotonic", lambda: now[0])
    request = GenerationRequest(parts=(PromptPart("Once", True),))
    one = Generation("key", Submit(1, request), 1, kept.hooks, lambda: None, queue_timeout=60.0)
    one.advance(state)
    now[0] += 61.0
    one.again()
    assert one.overdue is late
    now[0] += 61.0
    assert one.overdue


@pytest.mark.parametrize("state", [State.WAITING, State.ASSIGNED, State.ANSWERING])
def test_an_error_ends_a_request_in_any_state(kept: Kept, state: State) -> None:
    ended: list[State] = []
    one = generation(kept, lambda: ended.append(one.state))
    one.advance(state)
    one.push(FAULT)
    assert one.failed
    assert ended == [State.FAILED]
    one.push(Delta(1, 0, "too late", 1, "stop"))
    assert one.state is State.FAILED
    with pytest.raises(EngineFault, match="It died"):
        one.next(0.0)
    assert kept.closed == [one]


def test_a_failure_after_the_last_event_changes_nothing(kept: Kept) -> None:
    one = generation(kept)
    one.push(Delta(1, 0, "a", 1, "stop"))
    one.push(FAULT)
    assert one.state is State.COMPLETE
    assert not one.failed


def test_a_lookup_and_an_embedding_are_complete_with_their_last_answer(kept: Kept) -> None:
    lookup = Lookup("key", LookUp(1, TokenQuery()), kept.hooks)
    lookup.push(TokenResult(1, (5,)))
    assert lookup.state is State.COMPLETE
    assert lookup.wait(lambda: True).tokens == (5,)
    embedding = Embedding("key", Embed(1, EmbeddingRequest(("a", "b"))), kept.hooks)
    embedding.push(Accepted(1, 2, 0))
    embedding.push(Embedded(1, 1, b"", 1))
    assert not embedding.ended
    embedding.push(Embedded(1, 0, b"", 0))
    assert embedding.state is State.COMPLETE
    assert embedding.wait(lambda: True, lambda tokens: None).prompt_tokens == 2
    assert kept.closed == [lookup, embedding]


def test_a_request_is_closed_once_and_cancelled_only_while_it_is_open(kept: Kept) -> None:
    one = generation(kept)
    for _ in range(2):
        one.cancel()
    assert kept.closed == [one]
    assert kept.cancelled == [1]
