"""The queue for slots, and the plan of each step: the scheduler with plain objects and no model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_sequences import PROMPT, Fake, admitted, compute, start
from hypothesis import given
from hypothesis import strategies as st

import offgrid.engine.worker
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Status


def test_first_come_first_served() -> None:
    scheduler = Scheduler[Fake](2, 64)
    sequences = [Fake(i, 5) for i in range(4)]
    scheduler.submit(sequences)
    assert admitted(scheduler) == sequences[:2]
    assert admitted(scheduler) == []
    scheduler.release(sequences[0])
    assert admitted(scheduler) == [sequences[2]]
    assert list(scheduler.waiting) == [sequences[3]]


def test_every_decoding_sequence_gets_its_token_and_prefill_gets_the_rest() -> None:
    scheduler = Scheduler[Fake](3, 32)
    stream, long_prompt, short_prompt = Fake(1, 10), Fake(2, 1000), Fake(3, 3)
    scheduler.submit([stream, long_prompt, short_prompt])
    scheduler.admit()
    compute(scheduler, stream, 9)
    spans = scheduler.plan(prefill=8)
    assert [(s.sequence, s.start, s.count, s.completes) for s in spans] == [
        (stream, 9, 1, True),
        (long_prompt, 0, 8, False),
    ]


@pytest.mark.parametrize(("burst", "counts"), [(19, [8]), (20, [20]), (200, [20])])
def test_the_rest_of_a_short_prompt_is_prefilled_at_once(burst: int, counts: list[int]) -> None:
    scheduler = Scheduler[Fake](3, 64)
    stream = Fake(1, 10)
    scheduler.submit([stream, Fake(2, 20), Fake(3, 20)])
    scheduler.admit()
    compute(scheduler, stream, 9)
    assert [span.count for span in scheduler.plan(prefill=8, burst=burst)] == [1, *counts]


def test_prefill_alone_uses_the_whole_step() -> None:
    scheduler = Scheduler[Fake](2, 32)
    scheduler.submit([Fake(1, 30), Fake(2, 30)])
    scheduler.admit()
    assert [(r.start, r.count, r.completes) for r in scheduler.plan(prefill=8)] == [
        (0, 30, True),
        (0, 2, False),
    ]


def test_prompts_with_logprobs_share_the_rows_of_logits() -> None:
    scheduler = Scheduler[Fake](4, 64, scored_tokens=10)
    stream, one, two, plain = Fake(1, 10), Fake(2, 8), Fake(3, 20), Fake(4, 30)
    one.unscored = two.unscored = True
    scheduler.submit([stream, one, two, plain])
    scheduler.admit()
    compute(scheduler, stream, 9)
    spans = scheduler.plan(prefill=64)
    assert [(s.sequence, s.count, s.n_logits) for s in spans] == [
        (stream, 1, 1),
        (one, 8, 8),
        (two, 2, 2),
        (plain, 30, 1),
    ]
    scheduler.record(spans)
    assert [(r.sequence, r.count) for r in scheduler.plan(prefill=64) if r.sequence is two] == [
        (two, 10)
    ]


def test_cancel_removes_waiting_and_running_sequences() -> None:
    scheduler = Scheduler[Fake](1, 32)
    mine = [Fake(1, 5), Fake(1, 5)]
    other = Fake(2, 5)
    scheduler.submit([*mine, other])
    scheduler.admit()
    scheduler.cancel(1)
    assert mine[0].slot == -1
    assert admitted(scheduler) == [other]
    scheduler.cancel(99)
    assert scheduler.running == [other]


@pytest.mark.parametrize("sizes", [(0, 8, 9, 8), (4, 3, 9, 1), (1, 8, 9, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="n_slots"):
        Scheduler(*sizes)


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    step_tokens=st.integers(8, 64),
    prefill_tokens=st.integers(1, 16),
)
def test_every_prompt_is_computed_whole_and_in_order(
    lengths: list[int], step_tokens: int, prefill_tokens: int
) -> None:
    """C11, C12, C14: and no batch is larger than a step, or has a token without a slot."""
    scheduler = Scheduler[Fake](8, step_tokens)
    sequences = [Fake(i, length) for i, length in enumerate(lengths)]
    scheduler.submit(sequences)
    scheduler.admit()
    for _ in range(sum(lengths) + 1):
        spans = [
            span
            for span in scheduler.plan(prefill=prefill_tokens)
            if span.sequence.computed < span.sequence.length
        ]
        assert sum(span.count for span in spans) <= step_tokens
        assert len({span.sequence.slot for span in spans}) == len(spans)
        for span in spans:
            assert span.start == span.sequence.computed
            assert 0 <= span.sequence.slot < 8
        scheduler.record(spans)
    assert all(s.computed == s.length for s in sequences)


def test_the_statuses_from_arrival_to_end() -> None:
    scheduler = Scheduler[Fake](2, 64)
    first, second = Fake(1, 0, tokens=PROMPT), Fake(2, 0, tokens=PROMPT)
    scheduler.submit([first, second])
    assert (first.status, second.status) == (Status.WAITING, Status.WAITING)
    scheduler.admit()
    assert (first.status, second.status) == (Status.PREFILL, Status.PARKED)
    compute(scheduler, first, 38)
    assert (first.status, scheduler.counts()) == (Status.PREFILL, (0, 1))
    compute(scheduler, first, 39)
    assert (first.status, scheduler.counts()) == (Status.DECODING, (1, 0))
    scheduler.admit()
    assert second.status is Status.DECODING
    compute(scheduler, first, 40)
    scheduler.await_mask(first)
    assert [span.sequence for span in scheduler.plan(prefill=8)] == [second]
    scheduler.preempt(second)
    scheduler.resume(first)
    assert (first.status, second.status) == (Status.DECODING, Status.WAITING)
    scheduler.cancel(2)
    scheduler.release(first)
    assert (first.status, second.status) == (Status.FINISHED, Status.FINISHED)


def test_a_preempted_sequence_waits_until_another_has_ended() -> None:
    scheduler = Scheduler[Fake](3, 64)
    running = [Fake(i, 10) for i in range(3)]
    start(scheduler, *running)
    scheduler.preempt(running[2])
    assert admitted(scheduler) == []
    scheduler.release(running[0])
    assert admitted(scheduler) == [running[2]]
    for sequence in (running[2], running[1]):
        scheduler.preempt(sequence)
    assert admitted(scheduler) == [running[1], running[2]], "or until nobody runs"


def test_preempted_sequences_come_back_first() -> None:
    scheduler = Scheduler[Fake](2, 64)
    one, two, three = (Fake(i, 10) for i in range(3))
    start(scheduler, one, two, three)
    compute(scheduler, two, 5)
    scheduler.preempt(two)
    assert (two.computed, two.slot) == (0, -1)
    scheduler.release(one)
    assert admitted(scheduler) == [two, three]


@pytest.mark.parametrize(
    ("ends", "bridges"),
    [((), []), ((1,), [1]), ((1, 2), [1, 2]), ((1, 2, 3), []), ((0, 5), []), ((1, 4), [1, 4])],
)
def test_small_gaps_are_bridged(ends: tuple[int, ...], bridges: list[int]) -> None:
    scheduler = Scheduler[Fake](6, 64)
    running = [Fake(i, 10 + i) for i in range(6)]
    start(scheduler, *running)
    for sequence in running:
        compute(scheduler, sequence, 9 + sequence.request_id)
    for slot in ends:
        scheduler.release(running[slot])
    spans = scheduler.plan(prefill=16)
    assert scheduler.bridges(spans, 58) == [(slot, 9 + slot) for slot in bridges]
    assert len(scheduler.bridges(spans, 1)) <= 1
    scheduler.cannot_cut(spans[0].sequence)
    assert scheduler.bridges(spans, 58) == []


def test_a_full_slot_is_no_bridge() -> None:
    scheduler = Scheduler[Fake](3, 64, 30)
    running = [Fake(i, 30) for i in range(3)]
    start(scheduler, *running)
    for sequence in running:
        compute(scheduler, sequence, 29)
    compute(scheduler, running[1], 30)
    scheduler.release(running[1])
    assert scheduler.bridges(scheduler.plan(prefill=16), 10) == []


def test_statuses_are_set_by_the_scheduler_alone() -> None:
    folder = Path(offgrid.engine.worker.__file__).parent
    setters = {
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"\.status = ", path.read_text(encoding="utf-8"))
    }
    assert setters == {"plan.py", "sequence.py", "slots.py"}, "and each sequence begins with one"
