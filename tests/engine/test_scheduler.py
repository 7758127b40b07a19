"""The scheduler alone: plain objects in, plans out, no model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offgrid.engine.scheduler import Scheduler


@dataclass(eq=False)
class Fake:
    """A sequence of ``length`` tokens, none of them real."""

    request_id: int
    length: int
    slot: int = -1
    computed: int = 0

    def __len__(self) -> int:
        return self.length


def test_first_come_first_served() -> None:
    scheduler = Scheduler[Fake](2, 64, 16)
    sequences = [Fake(i, 5) for i in range(4)]
    scheduler.submit(sequences)
    assert scheduler.admit() == sequences[:2]
    assert scheduler.admit() == []
    scheduler.release(sequences[0])
    assert scheduler.admit() == [sequences[2]]
    assert list(scheduler.waiting) == [sequences[3]]


def test_every_decoding_sequence_gets_its_token_and_prefill_gets_the_rest() -> None:
    scheduler = Scheduler[Fake](3, 32, 8)
    stream, long_prompt, short_prompt = Fake(1, 10, computed=9), Fake(2, 1000), Fake(3, 3)
    scheduler.submit([stream, long_prompt, short_prompt])
    scheduler.admit()
    rows = scheduler.plan()
    assert [(r.sequence, r.start, r.count, r.completes) for r in rows] == [
        (stream, 9, 1, True),
        (long_prompt, 0, 8, False),
    ]


def test_prefill_alone_uses_the_whole_step() -> None:
    scheduler = Scheduler[Fake](2, 32, 8)
    scheduler.submit([Fake(1, 30), Fake(2, 30)])
    scheduler.admit()
    assert [(r.start, r.count, r.completes) for r in scheduler.plan()] == [
        (0, 30, True),
        (0, 2, False),
    ]


def test_cancel_takes_out_waiting_and_running_ones() -> None:
    scheduler = Scheduler[Fake](1, 32, 8)
    mine = [Fake(1, 5), Fake(1, 5)]
    other = Fake(2, 5)
    scheduler.submit([*mine, other])
    scheduler.admit()
    slots = scheduler.cancel(1)
    assert len(slots) == 1
    assert mine[0].slot == -1
    assert scheduler.admit() == [other]
    assert scheduler.cancel(99) == []


@pytest.mark.parametrize("sizes", [(0, 8, 8), (4, 3, 1), (1, 8, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="n_slots"):
        Scheduler(*sizes)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    step_tokens=st.integers(8, 64),
    prefill_tokens=st.integers(1, 16),
)
def test_every_prompt_is_computed_whole_and_in_order(
    lengths: list[int], step_tokens: int, prefill_tokens: int
) -> None:
    scheduler = Scheduler[Fake](8, step_tokens, prefill_tokens)
    sequences = [Fake(i, length) for i, length in enumerate(lengths)]
    scheduler.submit(sequences)
    scheduler.admit()
    for _ in range(sum(lengths) + 1):
        rows = [row for row in scheduler.plan() if row.sequence.computed < row.sequence.length]
        for row in rows:
            assert row.start == row.sequence.computed
            row.sequence.computed += row.count
    assert all(s.computed == s.length for s in sequences)


class Life(RuleBasedStateMachine):
    """Requests arrive, run, end and leave in any order; slots are never lost nor shared."""

    SLOTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[Fake](self.SLOTS, 16, 4)
        self.next_id = 0
        self.order: list[int] = []
        self.admitted: list[int] = []

    @rule(n=st.integers(1, 4), length=st.integers(1, 40))
    def submit(self, n: int, length: int) -> None:
        self.scheduler.submit([Fake(self.next_id, length) for _ in range(n)])
        self.order.append(self.next_id)
        self.next_id += 1

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        self.scheduler.cancel(which)

    @rule(finish=st.booleans())
    def step(self, finish: bool) -> None:
        self.admitted += [s.request_id for s in self.scheduler.admit()]
        rows = self.scheduler.plan()
        assert sum(row.count for row in rows) <= 16
        assert len({id(row.sequence) for row in rows}) == len(rows)
        assert bool(rows) == bool(self.scheduler.running)
        decoding = [s for s in self.scheduler.running if s.length - s.computed == 1]
        assert {id(s) for s in decoding} <= {id(row.sequence) for row in rows}
        for row in rows:
            row.sequence.computed += row.count
            if row.completes:
                if finish:
                    self.scheduler.release(row.sequence)
                else:
                    row.sequence.length += 1

    @invariant()
    def slots_add_up(self) -> None:
        slots = [s.slot for s in self.scheduler.running]
        assert len(set(slots)) == len(slots) <= self.SLOTS
        assert all(0 <= slot < self.SLOTS for slot in slots)
        assert all(s.slot == -1 for s in self.scheduler.waiting)

    @invariant()
    def in_order_of_arrival(self) -> None:
        assert self.admitted == sorted(self.admitted)


TestLife = Life.TestCase
