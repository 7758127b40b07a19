"""Slots and prefill are shared by caller: the scheduler with a stand-in for the model.

The bounds are those that ``offgrid/engine/worker/scheduler/queue.py`` states.
"""

from __future__ import annotations

from collections import Counter

import pytest
from fake_sequences import Fake, compute, start
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from offgrid.engine.protocol.requests import BATCH, INTERACTIVE, NORMAL
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scheduler.queue import AGE
from offgrid.engine.worker.sequence import Status


def fakes(count: int, owner: str, priority: int = NORMAL, first: int = 0) -> list[Fake]:
    return [Fake(first + i, 5, owner=owner, priority=priority) for i in range(count)]


def turns(scheduler: Scheduler[Fake], count: int) -> list[Fake]:
    """Let the oldest sequence end and another one begin, some times; return those that began."""
    begun: list[Fake] = []
    for _ in range(count):
        if scheduler.running:
            scheduler.release(scheduler.running[0])
        begun += [placement.sequence for placement in scheduler.admit()]
    return begun


@pytest.mark.parametrize("n_slots", [1, 2, 4])
def test_fifty_requests_of_a_caller_delay_another_by_one_turn_at_most(n_slots: int) -> None:
    """The first one comes at the next free slot; after it, the greedy caller has its turns too."""
    scheduler = Scheduler[Fake](n_slots, 64)
    start(scheduler, *fakes(50, "greedy"))
    for name in "bcde":
        short = Fake(99, 5, owner=name)
        scheduler.submit([short])
        begun = turns(scheduler, 1)
        if name == "b" or begun != [short]:
            assert [s.owner for s in begun] == ["b" if name == "b" else "greedy"]
            begun += turns(scheduler, 1)
        assert short in begun


def test_callers_take_turns() -> None:
    scheduler = Scheduler[Fake](1, 64)
    scheduler.submit([*fakes(6, "a"), *fakes(2, "b"), *fakes(3, "c")])
    assert "".join(s.owner for s in turns(scheduler, 11)) == "abcabcacaaa"


def test_a_caller_that_comes_again_and_again_does_not_overtake_one_that_waits() -> None:
    scheduler = Scheduler[Fake](1, 64)
    start(scheduler, Fake(0, 5, owner="z"))
    scheduler.submit(fakes(3, "waits"))
    owners = []
    for number in range(6):
        scheduler.submit([Fake(number, 5, owner=f"new {number}")])
        owners.append(turns(scheduler, 1)[0].owner)
    assert owners[0] == "waits"
    assert owners.count("waits") >= 2


def test_the_caller_with_fewest_slots_is_next() -> None:
    scheduler = Scheduler[Fake](4, 64)
    scheduler.submit(fakes(3, "a"))
    scheduler.submit(fakes(8, "b"))
    scheduler.admit()
    assert Counter(s.owner for s in scheduler.running) == {"a": 2, "b": 2}
    scheduler.release(next(s for s in scheduler.running if s.owner == "a"))
    assert [p.sequence.owner for p in scheduler.admit()] == ["a"]


def test_a_class_goes_first_within_its_caller_only() -> None:
    scheduler = Scheduler[Fake](1, 64)
    start(scheduler, Fake(0, 5, owner="z"))
    scheduler.submit(fakes(1, "a", BATCH) + fakes(2, "a") + fakes(2, "a", INTERACTIVE))
    scheduler.submit(fakes(2, "b"))
    begun = turns(scheduler, 7)
    expected = [("a", 0), ("b", 1), ("a", 0), ("b", 1), ("a", 1), ("a", 1), ("a", 2)]
    assert [(s.owner, s.priority) for s in begun] == expected


def test_urgent_requests_of_a_caller_do_not_overtake_those_of_another() -> None:
    scheduler = Scheduler[Fake](1, 64)
    start(scheduler, *fakes(30, "urgent", INTERACTIVE))
    usual = Fake(99, 5, owner="usual")
    scheduler.submit([usual])
    assert turns(scheduler, 1) == [usual]


def test_batch_lets_everyone_go_first_but_not_for_ever() -> None:
    scheduler = Scheduler[Fake](1, 64)
    start(scheduler, *fakes(1, "z"))
    batch = Fake(99, 5, owner="patient", priority=BATCH)
    scheduler.submit([batch])
    scheduler.submit(fakes(60, "a") + fakes(60, "b"))
    place = turns(scheduler, 60).index(batch)
    assert AGE <= place <= AGE + 2


def test_no_class_of_a_caller_starves() -> None:
    scheduler = Scheduler[Fake](1, 64)
    start(scheduler, *fakes(1, "a"))
    slow = Fake(98, 5, owner="a"), Fake(99, 5, owner="a", priority=BATCH)
    scheduler.submit(slow)
    scheduler.submit(fakes(90, "a", INTERACTIVE))
    begun = turns(scheduler, 60)
    assert begun.index(slow[0]) <= AGE + 1
    assert begun.index(slow[1]) <= 2 * AGE + 2


def test_callers_take_turns_at_prefill() -> None:
    scheduler = Scheduler[Fake](4, 32)
    long = [Fake(i, 200, owner="a") for i in range(3)]
    start(scheduler, *long, short := Fake(9, 40, owner="b"))
    seen = []
    for _ in range(4):
        spans = scheduler.plan(prefill=32)
        seen.append([(span.sequence.request_id, span.count) for span in spans])
        scheduler.record(spans)
    assert seen == [[(0, 32)], [(9, 32)], [(0, 32)], [(9, 8), (0, 24)]]
    assert short.computed == 40


def test_a_caller_alone_prefills_in_order_of_arrival() -> None:
    scheduler = Scheduler[Fake](2, 32)
    start(scheduler, first := Fake(1, 40), Fake(2, 40))
    spans = scheduler.plan(prefill=32)
    assert [(span.sequence, span.count) for span in spans] == [(first, 32)]


def test_the_caller_with_most_slots_is_preempted() -> None:
    scheduler = Scheduler[Fake](4, 64)
    mine, others = fakes(3, "a"), fakes(1, "b")
    start(scheduler, *mine)
    start(scheduler, *others)
    assert scheduler.to_preempt() is mine[2]
    for sequence in mine[1:]:
        scheduler.release(sequence)
    assert scheduler.to_preempt() is others[0]
    scheduler.release(mine[0])
    assert scheduler.to_preempt() is None


def test_the_expected_order_is_the_real_one() -> None:
    scheduler = Scheduler[Fake](2, 64)
    start(scheduler, *fakes(6, "a"))
    scheduler.submit(fakes(3, "b", BATCH) + fakes(3, "c", INTERACTIVE))
    expected = scheduler.waiting.order(scheduler.running)
    assert len(expected) == 10
    assert turns(scheduler, 10) == expected


# --- prefixes ---------------------------------------------------------------------------------


def test_prefixes_are_shared_only_within_a_partition() -> None:
    """B16: the prefix cache of one key tells nothing about it to another."""
    prompt = list(range(1, 101))
    scheduler = Scheduler[Fake](4, 64)
    first = Fake(1, 0, tokens=prompt, partition="a")
    start(scheduler, first)
    (placement,) = start(scheduler, other := Fake(2, 0, tokens=prompt, partition="b"))
    assert (placement.source, other.status) == (None, Status.PREFILL), "nor is it parked"
    compute(scheduler, first, 100)
    (placement,) = start(scheduler, Fake(3, 0, tokens=prompt, partition="c"))
    assert (placement.source, placement.keep) == (None, 0)
    scheduler.release(first)
    (placement,) = start(scheduler, Fake(4, 0, tokens=prompt, partition="c2"))
    assert (placement.source, placement.keep) == (None, 0)


def test_a_partition_finds_its_prefix_again() -> None:
    prompt = list(range(1, 101))
    scheduler = Scheduler[Fake](3, 64)
    sequences = [Fake(i, 0, tokens=prompt, partition=name) for i, name in enumerate("ab")]
    start(scheduler, *sequences)
    for sequence in sequences:
        compute(scheduler, sequence, 100)
    slots = [sequence.slot for sequence in sequences]
    for sequence in sequences:
        scheduler.release(sequence)  # equal tokens of two partitions are both kept
    for name, slot in zip("ab", slots, strict=True):
        (placement,) = start(scheduler, Fake(9, 0, tokens=[*prompt, 7], partition=name))
        assert (placement.source, placement.keep) == (slot, 100)


# --- under random requests --------------------------------------------------------------------


class Fair(RuleBasedStateMachine):
    """Callers send requests of all classes, cancel them, and are preempted. After each step:

    - no slot is idle while a sequence waits, except after a preemption;
    - a caller that has no slot, and not only ``batch`` in the queue, waits for at most one turn of
      each other caller;
    - any sequence at the head of its class waits for a bounded number of turns;
    - within a caller and a class, the order is that of arrival.
    """

    CALLERS = "abcde"
    SLOTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[Fake](self.SLOTS, 16)
        self.next_id = 0
        self.ever_preempted: set[int] = set()
        self.last_begun: dict[tuple[str, int], int] = {}
        self.passed: dict[str, Counter[str]] = {}
        """Caller without a slot -> turns of each other caller since it waits without one."""
        self.waited: dict[int, int] = {}
        """Request at the head of its class -> turns of anyone since it is there."""

    @initialize(slots=st.integers(1, 3))
    def choose(self, slots: int) -> None:
        self.SLOTS = slots
        self.scheduler = Scheduler[Fake](slots, 16)

    @rule(owner=st.sampled_from(CALLERS), priority=st.integers(0, 2), count=st.integers(1, 6))
    def submit(self, owner: str, priority: int, count: int) -> None:
        self.scheduler.submit(fakes(count, owner, priority, self.next_id))
        self.next_id += count

    @rule(which=st.integers(0, 40))
    def cancel(self, which: int) -> None:
        for sequence in self.scheduler.cancel(which):
            assert (sequence.slot, sequence.status) == (-1, Status.FINISHED)

    @rule()
    def preempt(self) -> None:
        victim = self.scheduler.to_preempt()
        if victim is not None:
            self.ever_preempted.add(victim.request_id)
            self.scheduler.preempt(victim)

    @rule(ends=st.lists(st.integers(0, 2), max_size=3))
    def step(self, ends: list[int]) -> None:
        """Some sequences end, others begin, and all that run get their tokens."""
        for which in ends:
            if which < len(self.scheduler.running):
                self.scheduler.release(self.scheduler.running[which])
        before = list(self.scheduler.running)
        self.note_heads()
        self.scheduler.admit()
        begun = [s for s in self.scheduler.running if s not in before]
        for place, sequence in enumerate(begun):
            if sequence.request_id not in self.ever_preempted:
                self.turn(sequence, {s.owner for s in [*before, *begun[:place]]})
        if not self.scheduler._held_back:
            assert not (self.scheduler.waiting and len(self.scheduler.idle))
        spans = self.scheduler.plan(prefill=4)
        decoding = [s for s in self.scheduler.running if s.status is Status.DECODING]
        assert {id(s) for s in decoding} <= {id(span.sequence) for span in spans}
        self.scheduler.record(span for span in spans if span.sequence not in decoding)

    def heads(self) -> dict[tuple[str, int], Fake]:
        found: dict[tuple[str, int], Fake] = {}
        for sequence in self.scheduler.waiting:
            if sequence.request_id not in self.ever_preempted:
                found.setdefault((sequence.owner, sequence.priority), sequence)
        return found

    def note_heads(self) -> None:
        heads = self.heads()
        running = {s.owner for s in self.scheduler.running}
        urgent = {owner for owner, priority in heads if priority != BATCH} - running
        self.passed = {owner: self.passed.get(owner, Counter()) for owner in urgent}
        self.waited = {s.request_id: self.waited.get(s.request_id, 0) for s in heads.values()}

    def turn(self, sequence: Fake, running: set[str]) -> None:
        kind = (sequence.owner, sequence.priority)
        assert self.last_begun.get(kind, -1) < sequence.request_id
        self.last_begun[kind] = sequence.request_id
        for owner, passed in self.passed.items():
            if owner not in running and owner != sequence.owner:
                passed[sequence.owner] += 1
                assert max(passed.values()) <= 1
        self.passed.pop(sequence.owner, None)
        for id in self.waited:
            self.waited[id] += id != sequence.request_id
        self.waited.pop(sequence.request_id, None)

    @invariant()
    def slots_add_up(self) -> None:
        slots = [s.slot for s in self.scheduler.running]
        assert sorted([*slots, *(slot for slot, _ in self.scheduler.idle)]) == list(
            range(self.SLOTS)
        )
        assert len(self.scheduler.waiting) == len(list(self.scheduler.waiting))
        assert all(s.slot == -1 for s in self.scheduler.waiting)


TestFair = Fair.TestCase


@pytest.mark.slow
@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(0, 3)), max_size=40
    ),
    n_slots=st.integers(1, 4),
)
def test_every_sequence_gets_its_turn_however_many_come(
    arrivals: list[tuple[str, int, int]], n_slots: int
) -> None:
    """One sequence of each class waits while others come for ever: none of the three starves."""
    scheduler = Scheduler[Fake](n_slots, 64)
    start(scheduler, *fakes(n_slots, "a", INTERACTIVE))
    watched = [Fake(900 + level, 5, owner="w", priority=level) for level in range(3)]
    scheduler.submit(watched)
    endless = [*arrivals, ("a", INTERACTIVE, 1), ("b", NORMAL, 1)]
    begun: list[Fake] = []
    for number in range((2 * AGE + 2) * 5):
        owner, priority, count = endless[number % len(endless)]
        scheduler.submit(fakes(max(1, count), owner, priority, 1000 + 4 * number))
        begun += turns(scheduler, 1)
    assert set(watched) <= set(begun)
