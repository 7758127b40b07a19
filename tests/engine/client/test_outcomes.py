"""What a closed request reports to its record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from work import lines_run

from offgrid import record as records
from offgrid.engine.client.outcomes import outcome_of
from offgrid.engine.client.pending import Embedding, Generation, Hooks, State
from offgrid.engine.protocol.commands import Embed, Submit
from offgrid.engine.protocol.events import Accepted, Delta, Failed, Times
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest
from offgrid.record import Record

HOOKS = Hooks(threading.RLock(), lambda p: None, lambda id: None, lambda id, choice: None)


def generation(**fields: Any) -> Generation:
    return Generation("k", Submit(1, GenerationRequest(**fields)), 1, HOOKS, lambda: None)


def started(one: Generation, tokens: int = 12) -> Generation:
    one.push(Accepted(1, tokens, 7))
    one.wait_accepted(lambda: True)
    one.advance(State.STARTED)
    return one


def test_a_complete_answer() -> None:
    """The worker's own times count, and of choices only the first one computed the prompt."""
    one = started(generation(n=2))
    one.push(Delta(1, 0, "a", 1, cached_tokens=8))
    one.push(Delta(1, 0, "b", 4, "stop", cached_tokens=8, times=Times(250.0, 600.0),
                   drafted=3, draft_accepted=2))  # fmt: skip
    one.push(Delta(1, 1, "c", 2, "length", cached_tokens=12, times=Times(0.0, 200.0)))
    outcome = outcome_of(one, "m")
    assert (outcome.model, outcome.prompt_tokens, outcome.cached_tokens) == ("m", 12, 8)
    assert (outcome.completion_tokens, outcome.steps) == (6, 4)
    assert dict(outcome.finished) == {"stop": 1, "length": 1}
    assert (outcome.drafted, outcome.draft_accepted) == (3, 2)
    assert (outcome.prefill, outcome.decode) == (0.25, pytest.approx(0.8))
    assert outcome.queue is not None
    assert outcome.queue >= 0
    assert outcome.first_token == one.moments[State.ANSWERING] > 0
    assert (outcome.status, outcome.code) == (0, "")


def test_an_answer_that_is_given_up() -> None:
    """The tokens until then count, even those that nobody has read."""
    one = started(generation(n=2))
    one.push(Delta(1, 0, "a", 3))
    one.cancel()
    outcome = outcome_of(one, "m")
    assert outcome.completion_tokens == 3
    assert outcome.finished == (("abort", 2),)
    assert outcome.prefill is not None


def test_a_request_that_waited_in_vain() -> None:
    one = generation()
    one.push(Accepted(1, 12, 7))
    one.wait_accepted(lambda: True)
    one.cancel()
    outcome = outcome_of(one, "m")
    assert (outcome.queue, outcome.first_token, outcome.prefill) == (None, None, None)
    assert outcome.finished == (("abort", 1),)


def test_a_failure() -> None:
    one = started(generation())
    one.push(Failed(1, "EngineFault", "It died."))
    outcome = outcome_of(one, "m")
    assert (outcome.status, outcome.code) == (500, "engine_fault")
    assert outcome.finished == (("error", 1),)


def test_a_request_that_is_retried_counts_once() -> None:
    one = started(generation())
    one.push(Delta(1, 0, "", 0))
    one.again()
    one.advance(State.STARTED)
    one.push(Delta(1, 0, "a", 1, "stop", times=Times(1.0, 0.0)))
    assert outcome_of(one, "m").completion_tokens == 1


def test_inputs_to_be_embedded() -> None:
    one = Embedding("k", Embed(1, EmbeddingRequest(("a",))), HOOKS)
    one.prompt_tokens = 5
    outcome = outcome_of(one, "m")
    assert (outcome.prompt_tokens, outcome.generates, outcome.finished) == (5, False, ())


@pytest.fixture
def served() -> Iterator[Record]:
    record = Record("r")
    records.begin(record)
    yield record
    records.end()


def test_a_request_belongs_to_the_record_of_its_thread(served: Record) -> None:
    assert generation().record is served
    records.end()
    assert generation().record is None


def test_a_record_costs_nothing_per_token(served: Record) -> None:
    """The work for each token is the same with a record and without, and a few lines."""

    def work(tokens: int) -> int:
        one = started(generation())
        deltas = [Delta(1, 0, "a", 1 + number) for number in range(tokens)]
        one.push(deltas[0])
        return lines_run(lambda: [one.push(delta) for delta in deltas[1:]])

    with_record = [work(tokens) for tokens in (101, 201)]
    records.end()
    assert [work(tokens) for tokens in (101, 201)] == with_record
    assert (with_record[1] - with_record[0]) / 100 < 25
