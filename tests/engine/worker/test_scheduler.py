"""The scheduler alone, with plain objects and without a model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from slot_memory import Kind, SlotMemory

from offgrid.engine.worker import scheduler as scheduler_module
from offgrid.engine.worker.prefix import MIN_COPY, MIN_REUSE
from offgrid.engine.worker.scheduler import BatchSpan, Placement, Scheduler
from offgrid.engine.worker.sequence import TRANSITIONS, Status


class Fake:
    """A sequence without a model: ``length`` unique tokens unless ``tokens`` are given."""

    _next = itertools.count(1)

    def __init__(
        self, request_id: int, length: int, computed: int = 0, tokens: list[int] | None = None
    ) -> None:
        self.request_id = request_id
        self.choice = 0
        self.slot = -1
        self._status = Status.WAITING
        self.computed = computed
        self.cached = 0
        self.reuse = True
        own = [next(self._next) * 1000 + i for i in range(length)] if tokens is None else tokens
        self.tokens = np.array(own + [0] * 500, dtype=np.int32)
        self.length = self.n_prompt = len(own)
        self.unscored = False

    @property
    def status(self) -> Status:
        return self._status

    @status.setter
    def status(self, status: Status) -> None:
        assert status is self._status or status in TRANSITIONS[self._status]
        self._status = status

    def __len__(self) -> int:
        return self.length

    @property
    def readable(self) -> int:
        return self.length

    def before_image(self, length: int) -> int:
        return length

    @property
    def wanted_from(self) -> int:
        return self.computed if self.unscored else self.length - 1


def compute(scheduler: Scheduler[Fake], sequence: Fake, computed: int) -> None:
    """Mark tokens up to ``computed`` as computed, as if they had been planned in a span."""
    scheduler.record([BatchSpan(sequence, sequence.computed, computed - sequence.computed)])


def admitted(scheduler: Scheduler[Fake]) -> list[Fake]:
    """Admit; return the sequences that start in this step, in order, without parked ones."""
    return [s for s in (p.sequence for p in scheduler.admit()) if s.status is not Status.PARKED]


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


def test_a_scored_prompt_reuses_no_prefix_but_provides_one() -> None:
    scheduler = Scheduler[Fake](3, 64)
    tokens = list(range(1, 41))
    one, two, three = (Fake(i, 0, tokens=tokens) for i in range(3))
    two.unscored = True
    scheduler.submit([one])
    scheduler.admit()
    compute(scheduler, one, 40)
    scheduler.submit([two])
    (placement,) = scheduler.admit()
    assert (placement.source, placement.keep, two.computed) == (None, 0, 0)
    scheduler.release(one)
    scheduler.forget(0)
    scheduler.forget(1)
    compute(scheduler, two, 40)
    scheduler.submit([three])
    (placement,) = scheduler.admit()
    assert (placement.source, placement.keep) == (two.slot, 39)


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


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    step_tokens=st.integers(8, 64),
    prefill_tokens=st.integers(1, 16),
)
def test_every_prompt_is_computed_whole_and_in_order(
    lengths: list[int], step_tokens: int, prefill_tokens: int
) -> None:
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
        for span in spans:
            assert span.start == span.sequence.computed
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


# --- shared prefixes --------------------------------------------------------------------------


def start(scheduler: Scheduler[Fake], *sequences: Fake) -> list[Placement[Fake]]:
    scheduler.submit(sequences)
    return scheduler.admit()


PROMPT = list(range(1, 41))


def test_the_prefix_of_a_finished_sequence_is_reused() -> None:
    scheduler = Scheduler[Fake](1, 64)
    first = Fake(1, 0, tokens=PROMPT)
    start(scheduler, first)
    compute(scheduler, first, 40)
    scheduler.release(first)
    (placement,) = start(scheduler, Fake(2, 0, tokens=[*PROMPT[:30], 99, 98]))
    assert (placement.source, placement.keep) == (0, 30)
    assert placement.sequence.computed == placement.sequence.cached == 30


@pytest.mark.parametrize("can_cut", [True, False])
@pytest.mark.parametrize("shared", [1, MIN_REUSE - 1, MIN_REUSE])
def test_a_short_prefix_is_computed_again(shared: int, can_cut: bool) -> None:
    """Even in its own slot: fewer tokens computed at once are rounded differently."""
    scheduler = Scheduler[Fake](1, 64, can_cut=can_cut)
    first = Fake(1, 0, tokens=PROMPT[:shared])
    start(scheduler, first)
    compute(scheduler, first, shared)
    scheduler.release(first)
    (placement,) = start(scheduler, Fake(2, 0, tokens=[*PROMPT[:shared], 99, 98]))
    kept = shared if shared == MIN_REUSE else 0
    assert (placement.source, placement.keep) == (0 if kept else None, kept)
    assert placement.sequence.computed == placement.sequence.cached == kept


def test_the_last_token_is_always_computed() -> None:
    scheduler = Scheduler[Fake](1, 64)
    first = Fake(1, 0, tokens=PROMPT)
    start(scheduler, first)
    compute(scheduler, first, 40)
    scheduler.release(first)
    (placement,) = start(scheduler, Fake(2, 0, tokens=PROMPT))
    assert placement.keep == 39
    assert placement.sequence.status is Status.DECODING


def test_the_prefix_of_a_running_sequence_is_copied() -> None:
    scheduler = Scheduler[Fake](2, 64)
    first, second = Fake(1, 0, tokens=PROMPT), Fake(2, 0, tokens=[*PROMPT, 99])
    start(scheduler, first)
    compute(scheduler, first, 40)
    (placement,) = start(scheduler, second)
    assert (placement.source, placement.keep) == (first.slot, 40)
    assert second.slot != first.slot


def test_a_short_prefix_is_not_worth_a_copy() -> None:
    scheduler = Scheduler[Fake](2, 64)
    first = Fake(1, 0, tokens=PROMPT)
    start(scheduler, first)
    compute(scheduler, first, 40)
    (placement,) = start(scheduler, Fake(2, 0, tokens=[*PROMPT[: MIN_COPY - 1], 99, 98]))
    assert (placement.source, placement.keep) == (None, 0)


def test_sequences_with_the_same_new_prompt_wait_for_its_prefill() -> None:
    scheduler = Scheduler[Fake](3, 16)
    sequences = [Fake(i, 0, tokens=PROMPT) for i in range(3)]
    scheduler.submit(sequences)
    assert admitted(scheduler) == sequences[:1]
    assert len(scheduler.running) == 3
    for _ in range(2):
        (span,) = scheduler.plan(prefill=8)
        assert span.sequence is sequences[0]
        scheduler.record([span])
        assert scheduler.admit() == []
    (span,) = scheduler.plan(prefill=8)
    scheduler.record([span])
    sequences[0].length += 1  # its first token was sampled
    placements = scheduler.admit()
    assert [(p.sequence, p.source, p.keep) for p in placements] == [
        (sequences[1], sequences[0].slot, 39),
        (sequences[2], sequences[0].slot, 39),
    ]
    assert {span.count for span in scheduler.plan(prefill=8)} == {1}


def test_a_parked_sequence_waits_for_the_prefill_only_not_for_the_answer() -> None:
    scheduler = Scheduler[Fake](2, 16)
    answer = list(range(5000, 5300))
    first = Fake(1, 0, tokens=PROMPT)
    second = Fake(2, 0, tokens=[*PROMPT, *answer, 7])
    start(scheduler, first, second)
    assert second.status is Status.PARKED
    compute(scheduler, first, 40)
    first.tokens[40] = answer[0]
    first.length = 41
    (placement,) = scheduler.admit()
    assert (placement.sequence, placement.keep) == (second, 40)


def test_choices_share_their_prefill_whatever_they_share_with_others() -> None:
    scheduler = Scheduler[Fake](3, 64)
    choices = [Fake(1, 0, tokens=PROMPT) for _ in range(2)]
    other = Fake(2, 0, tokens=PROMPT)
    for sequence in choices:
        sequence.reuse = False
    start(scheduler, *choices, other)
    assert choices[1].status is Status.PARKED
    assert other.status is not Status.PARKED
    compute(scheduler, choices[0], 39)
    (placement,) = scheduler.admit()
    assert (placement.sequence, placement.source) == (choices[1], choices[0].slot)


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


def test_a_parked_sequence_starts_when_the_other_is_cancelled() -> None:
    scheduler = Scheduler[Fake](2, 16)
    first, second = Fake(1, 0, tokens=PROMPT), Fake(2, 0, tokens=PROMPT)
    start(scheduler, first, second)
    compute(scheduler, first, 20)
    scheduler.cancel(1)
    (placement,) = scheduler.admit()
    assert placement.sequence is second
    assert placement.keep == 20


def test_the_least_recently_used_slot_is_evicted_first() -> None:
    scheduler = Scheduler[Fake](2, 64)
    old, new = Fake(1, 0, tokens=[*PROMPT, 7]), Fake(2, 0, tokens=[9, *PROMPT])
    start(scheduler, old, new)
    slots = old.slot, new.slot
    for sequence in (old, new):
        compute(scheduler, sequence, 41)
        scheduler.release(sequence)
    (placement,) = start(scheduler, Fake(3, 5))
    assert placement.sequence.slot == slots[0]
    (again,) = start(scheduler, Fake(4, 0, tokens=[9, *PROMPT, 3]))
    assert (again.sequence.slot, again.keep) == (slots[1], 41)


def test_a_long_conversation_is_not_evicted_for_a_common_prefix() -> None:
    """If another slot is idle, the prefix is copied there and the conversation stays."""
    scheduler = Scheduler[Fake](2, 64)
    long = Fake(1, 0, tokens=list(range(1, 101)))
    start(scheduler, long)
    kept = long.slot
    compute(scheduler, long, 100)
    scheduler.release(long)
    (placement,) = start(scheduler, Fake(2, 0, tokens=[*range(1, 21), 999, 998]))
    assert (placement.source, placement.keep) == (kept, 20)
    assert placement.sequence.slot != kept


def test_no_reuse_on_request() -> None:
    scheduler = Scheduler[Fake](2, 64)
    secret, other = Fake(1, 0, tokens=PROMPT), Fake(2, 0, tokens=PROMPT)
    secret.reuse = False
    start(scheduler, secret)
    compute(scheduler, secret, 40)
    (placement,) = start(scheduler, other)
    assert placement.keep == 0
    compute(scheduler, other, 40)
    for sequence in (secret, other):
        scheduler.release(sequence)
    third = Fake(3, 0, tokens=PROMPT)
    third.reuse = False
    assert start(scheduler, third)[0].keep == 0


def test_without_checkpoints_a_memory_that_cannot_be_cut_is_shared_whole() -> None:
    scheduler = Scheduler[Fake](1, 64, can_cut=False)
    first = Fake(1, 0, tokens=PROMPT)
    start(scheduler, first)
    compute(scheduler, first, 40)
    scheduler.release(first)
    longer, other = Fake(2, 0, tokens=[*PROMPT, 5]), Fake(3, 0, tokens=[*PROMPT[:30], 5])
    (placement,) = start(scheduler, longer)
    assert (placement.source, placement.keep) == (longer.slot, 40)
    compute(scheduler, longer, 41)
    scheduler.release(longer)
    assert start(scheduler, other)[0].keep == 0


def test_preempted_sequences_come_back_first() -> None:
    scheduler = Scheduler[Fake](2, 64)
    one, two, three = (Fake(i, 10) for i in range(3))
    start(scheduler, one, two, three)
    compute(scheduler, two, 5)
    scheduler.preempt(two)
    assert (two.computed, two.slot) == (0, -1)
    scheduler.release(one)
    assert admitted(scheduler) == [two, three]


def filled(scheduler: Scheduler[Fake], n_slots: int, length: int = 20) -> list[Fake]:
    """Run as many sequences as slots to their ends, the one in slot 0 first."""
    sequences = [Fake(100 + i, length) for i in range(n_slots)]
    start(scheduler, *sequences)
    for sequence in sequences:
        compute(scheduler, sequence, length)
        scheduler.release(sequence)
    return sequences


def test_new_sequences_get_adjacent_slots() -> None:
    scheduler = Scheduler[Fake](8, 64)
    filled(scheduler, 8)
    running = [Fake(i, 20) for i in range(4)]
    for sequence in running:
        start(scheduler, sequence)
    assert sorted(s.slot for s in running) == [0, 1, 2, 3]


def test_a_slot_next_to_running_ones_is_moved_where_less_is_lost() -> None:
    scheduler = Scheduler[Fake](8, 64)
    old = filled(scheduler, 8)
    # From now on, slots 4 to 7 are the older half.
    for sequence in old[:4]:
        (placement,) = start(scheduler, again := Fake(1, 0, tokens=[*sequence.tokens[:20], 7]))
        assert placement.source == again.slot
        compute(scheduler, again, 21)
        scheduler.release(again)
    (placement,) = start(scheduler, first := Fake(2, 0, tokens=[*old[0].tokens[:20], 7, 8]))
    assert first.slot == 0
    (placement,) = start(scheduler, second := Fake(3, 20))
    assert (second.slot, placement.rescue, placement.source) == (1, 4, None)
    held = dict(scheduler.idle)
    assert held[4].tolist() == [*old[1].tokens[:20].tolist(), 7]
    assert 1 not in held
    # The moved prefix is still found, and counts as recently used as before.
    (placement,) = start(scheduler, Fake(4, 0, tokens=[*old[1].tokens[:20], 7, 9]))
    assert placement.keep == 21


def test_a_conversation_in_a_far_slot_moves_next_to_the_running_ones() -> None:
    """An empty slot is next to the running ones."""
    scheduler = Scheduler[Fake](8, 64)
    old = filled(scheduler, 8)
    start(scheduler, first := Fake(1, 20))
    assert first.slot == 0
    scheduler.forget(1)
    (placement,) = start(scheduler, again := Fake(2, 0, tokens=[*old[7].tokens[:20], 7]))
    assert (again.slot, placement.source, placement.keep) == (1, 7, 20)
    assert placement.rescue is None
    assert len(dict(scheduler.idle)[7]) == 0


def test_a_slot_next_to_running_ones_is_moved_to_an_empty_slot() -> None:
    scheduler = Scheduler[Fake](8, 64)
    old = filled(scheduler, 8)
    start(scheduler, first := Fake(1, 20))
    assert first.slot == 0
    scheduler.forget(4)
    (placement,) = start(scheduler, again := Fake(2, 0, tokens=[*old[7].tokens[:20], 7]))
    assert (again.slot, placement.source, placement.keep) == (1, 7, 20)
    assert placement.rescue == 4
    assert dict(scheduler.idle)[4].tolist() == old[1].tokens[:20].tolist()
    assert len(dict(scheduler.idle)[7]) == 0


def test_no_conversation_is_evicted_to_move_another_next_to_the_running_ones() -> None:
    scheduler = Scheduler[Fake](8, 64)
    old = filled(scheduler, 8)
    start(scheduler, Fake(1, 20))
    (placement,) = start(scheduler, again := Fake(2, 0, tokens=[*old[7].tokens[:20], 7]))
    assert (again.slot, placement.source, placement.keep) == (7, 7, 20)
    assert placement.rescue is None
    assert [len(tokens) for _, tokens in scheduler.idle] == [20] * 6


def test_slots_of_a_long_context_stay_where_they_are() -> None:
    scheduler = Scheduler[Fake](8, 64, 1 << 20)
    old = filled(scheduler, 8)
    start(scheduler, Fake(1, 20))
    (placement,) = start(scheduler, again := Fake(2, 0, tokens=[*old[7].tokens[:20], 7]))
    assert (again.slot, placement.rescue) == (7, None)


def test_a_long_context_is_copied_for_a_long_prefix_only() -> None:
    scheduler = Scheduler[Fake](2, 64, 128 * 30)
    first = Fake(1, 0, tokens=PROMPT)
    start(scheduler, first)
    compute(scheduler, first, 40)
    (placement,) = start(scheduler, Fake(2, 0, tokens=[*PROMPT[:29], 99, 98]))
    assert placement.keep == 0
    scheduler.cancel(2)
    (placement,) = start(scheduler, Fake(3, 0, tokens=[*PROMPT[:30], 99, 98]))
    assert placement.keep == 30


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


class Life(RuleBasedStateMachine):
    """Requests arrive, run, end and leave in any order; few distinct tokens give common prefixes.

    Lists take the place of llama.cpp's memory, of one kind or another. Slots are never lost or
    shared, and every slot holds exactly the tokens that its sequence has computed. Each sequence
    has the status that follows from its slot and its tokens, and changes it only by a documented
    transition (``Fake.status``).
    """

    SLOTS = 7
    BUDGET = 150
    """Tokens: more than in the states of two sequences, fewer than in those of all."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[Fake](self.SLOTS, 16)
        self.next_id = 0
        self.admitted: list[int] = []
        self.submitted: list[Fake] = []
        self.memory = SlotMemory(self.SLOTS)

    @initialize(kind=st.sampled_from(Kind), budget=st.sampled_from([0, BUDGET]))
    def choose_memory(self, kind: Kind, budget: int) -> None:
        self.memory = SlotMemory(self.SLOTS, kind)
        checkpoints = self.memory.checkpoints(budget, 16, 8)
        self.scheduler = Scheduler[Fake](
            self.SLOTS, 16, can_cut=kind is Kind.CUT, checkpoints=checkpoints
        )

    @rule(n=st.integers(1, 4), common=st.integers(0, 60), more=st.lists(st.integers(1, 2)),
          reuse=st.booleans())  # fmt: skip
    def submit(self, n: int, common: int, more: list[int], reuse: bool) -> None:
        tokens = [*[1] * common, *more, 3]
        sequences = [Fake(self.next_id, 0, tokens=tokens) for _ in range(n)]
        for sequence in sequences:
            sequence.reuse = reuse
        self.scheduler.submit(sequences)
        self.submitted += sequences
        self.next_id += 1

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        self.scheduler.cancel(which)

    @rule()
    def cut_no_more(self) -> None:
        """The scheduler learns it only by trying."""
        self.memory.refuses = True

    @rule()
    def lose_the_idle_slots(self) -> None:
        for slot in self.scheduler.idle.clear():
            self.memory.forget(slot)

    @rule()
    def preempt(self) -> None:
        if len(self.scheduler.running) > 1:
            self.scheduler.preempt(self.scheduler.running[-1])
            self.admitted = []  # it may be readmitted after sequences that arrived later

    @rule(finish=st.booleans(), token=st.integers(1, 2), late=st.booleans())
    def step(self, finish: bool, token: int, late: bool) -> None:
        """One step of the loop; ``late``: the masks of grammars are not ready in time."""
        before = list(self.scheduler.running)
        awaiting = [s for s in before if s.status is Status.AWAITING_MASK]
        self.memory.carry_out(self.scheduler, self.scheduler.admit())
        new = [s for s in self.scheduler.running if s not in before]
        self.admitted += [s.request_id for s in new]
        self.statuses_say_what_is_true()
        spans = self.scheduler.plan(prefill=4)
        assert sum(span.count for span in spans) <= 16
        assert len({id(span.sequence) for span in spans}) == len(spans)
        assert bool(spans) == bool(set(self.scheduler.running) - set(awaiting))
        assert spans or awaiting or not self.scheduler.waiting
        decoding = [
            s for s in self.scheduler.running
            if s.length - s.computed == 1 and s.status is not Status.PARKED  # not its status
        ]  # fmt: skip
        assert {id(s) for s in decoding} <= {id(span.sequence) for span in spans}
        self._bridge(spans)
        for span in spans:
            self._compute(span)
            if span.completes and late:
                self.scheduler.await_mask(span.sequence)
            elif span.completes:
                self._sample(span.sequence, finish, token)
        for sequence in awaiting if not late else ():
            self.scheduler.resume(sequence)
            self._sample(sequence, finish, token)
        self.memory.take_checkpoints(self.scheduler)

    def _bridge(self, spans: list[BatchSpan[Fake]]) -> None:
        used = {span.sequence.slot for span in spans}
        bridges = self.scheduler.bridges(spans, 16 - sum(span.count for span in spans))
        assert sum(span.count for span in spans) + len(bridges) <= 16
        assert len({slot for slot, _ in bridges} | used) == len(bridges) + len(used)
        for slot, position in bridges:
            assert not any(s.slot == slot and s.computed for s in self.scheduler.running)
            self.memory.cut(slot, position)
            self.memory.compute(slot, position, [0])
            assert self.memory.cut(slot, position) or self.memory.refuses

    def _compute(self, span: BatchSpan[Fake]) -> None:
        sequence = span.sequence
        tokens = sequence.tokens[span.start : span.start + span.count].tolist()
        self.memory.compute(sequence.slot, span.start, tokens)
        self.scheduler.record([span])

    def _sample(self, sequence: Fake, finish: bool, token: int) -> None:
        if finish or sequence.length > 120:
            self.scheduler.release(sequence)
        else:
            sequence.tokens[sequence.length] = token
            sequence.length += 1

    @invariant()
    def slots_add_up(self) -> None:
        slots = [s.slot for s in self.scheduler.running]
        assert sorted([*slots, *(slot for slot, _ in self.scheduler.idle)]) == list(
            range(self.SLOTS)
        )
        assert all(s.slot == -1 for s in self.scheduler.waiting)

    @invariant()
    def statuses_say_what_is_true(self) -> None:
        running, waiting = set(self.scheduler.running), set(self.scheduler.waiting)
        for sequence in self.submitted:
            if sequence in waiting:
                expected = {Status.WAITING}
            elif sequence not in running:
                expected = {Status.FINISHED}
            elif sequence.computed == sequence.length:
                expected = {Status.AWAITING_MASK}
            elif sequence.computed == sequence.length - 1:
                expected = {Status.DECODING}
            else:
                expected = {Status.PREFILL, Status.PARKED}
            assert sequence.status in expected
            assert (sequence.slot >= 0) == (sequence in running)

    @invariant()
    def slots_hold_what_is_believed(self) -> None:
        for sequence in self.scheduler.running:
            if sequence.status is not Status.PARKED:
                believed = sequence.tokens[: sequence.computed].tolist()
                assert self.memory.tokens[sequence.slot] == believed
        for slot, held in self.scheduler.idle:
            if len(held):
                assert self.memory.tokens[slot] == held.tolist()

    @invariant()
    def checkpoints_stay_within_their_budget(self) -> None:
        assert self.scheduler.checkpoints.used <= self.scheduler.checkpoints.budget

    @invariant()
    def in_order_of_arrival(self) -> None:
        assert self.admitted == sorted(self.admitted)


TestLife = Life.TestCase


def test_statuses_are_set_by_the_scheduler_alone() -> None:
    folder = Path(scheduler_module.__file__).parent
    setters = {
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"\.status = ", path.read_text(encoding="utf-8"))
    }
    assert setters == {"scheduler.py", "sequence.py"}, "and each sequence begins with one"


class Fetched:
    """A saved prefix that arrives when a test says so."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.ready = self.lost = False


class Saved:
    """Saved prefixes: the first ``length`` tokens of every prompt, if that is worth it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.fetches: list[Fetched] = []

    def find(
        self, prompt: np.ndarray, before_image: Callable[[int], int], above: int
    ) -> Fetched | None:
        if min(self.length, len(prompt)) <= above:
            return None
        self.fetches.append(Fetched(min(self.length, len(prompt))))
        return self.fetches[-1]


def test_a_sequence_is_parked_until_its_saved_prefix_has_arrived() -> None:
    saved = Saved(100)
    scheduler = Scheduler[Fake](3, 64, saved=saved)
    shared = [*range(1, 121)]
    first, same, longer = (Fake(i, 0, tokens=[*shared, *more]) for i, more in
                           ((1, [5]), (2, [6]), (3, [7] * 90)))  # fmt: skip
    scheduler.submit([first, same, longer])
    placements = scheduler.admit()
    assert [p.sequence.status for p in placements] == [Status.PARKED] * 3
    assert len(saved.fetches) == 1  # the others wait for what the first will compute
    assert scheduler.plan(prefill=64) == []
    assert scheduler.admit() == []
    saved.fetches[0].ready = True
    (placement,) = scheduler.admit()
    assert (placement.sequence, placement.fetched, placement.keep) == (first, saved.fetches[0], 100)
    assert (first.status, first.computed, first.cached) == (Status.PREFILL, 100, 100)
    compute(scheduler, first, 120)
    assert [(p.sequence, p.keep) for p in scheduler.admit()] == [(same, 120), (longer, 120)]


def test_a_lost_prefix_is_computed() -> None:
    saved = Saved(100)
    scheduler = Scheduler[Fake](1, 64, saved=saved)
    sequence = Fake(1, 200)
    scheduler.submit([sequence])
    scheduler.admit()
    saved.fetches[0].ready = saved.fetches[0].lost = True
    (placement,) = scheduler.admit()
    assert (placement.fetched, placement.source, sequence.computed) == (None, None, 0)
    assert [span.count for span in scheduler.plan(prefill=64)] == [64]


def test_a_prefix_that_cannot_be_restored_is_computed() -> None:
    saved = Saved(200)
    scheduler = Scheduler[Fake](1, 64, saved=saved)
    sequence = Fake(1, 100)
    scheduler.submit([sequence])
    scheduler.admit()
    saved.fetches[0].ready = True
    scheduler.admit()
    assert (sequence.status, sequence.cached) == (Status.DECODING, 99)
    scheduler.start_over(sequence)
    assert (sequence.status, sequence.cached, sequence.computed) == (Status.PREFILL, 0, 0)


def test_cancelled_while_its_prefix_is_read() -> None:
    saved = Saved(100)
    scheduler = Scheduler[Fake](1, 64, saved=saved)
    first, second = Fake(1, 200), Fake(2, 50)
    scheduler.submit([first, second])
    scheduler.admit()
    assert scheduler.cancel(1) == [first]
    saved.fetches[0].ready = True
    saved.length = 0
    assert admitted(scheduler) == [second]
    assert second.computed == 0


def test_what_a_newcomer_evicts_is_named() -> None:
    """Not what the next turn of a conversation replaces."""
    scheduler = Scheduler[Fake](1, 64)
    first = Fake(1, 100)
    scheduler.submit([first])
    (placement,) = scheduler.admit()
    assert placement.lost is not None
    assert len(placement.lost[1]) == 0
    compute(scheduler, first, 100)
    scheduler.release(first)
    turn = Fake(2, 0, tokens=[*first.tokens[:100].tolist(), 3, 4])
    scheduler.submit([turn])
    (placement,) = scheduler.admit()
    assert (placement.keep, placement.lost) == (100, None)
    compute(scheduler, turn, 102)
    scheduler.release(turn)
    scheduler.submit([Fake(3, 50)])
    (placement,) = scheduler.admit()
    assert placement.lost is not None
    slot, tokens, n_prompt = placement.lost
    assert (slot, tokens.tolist(), n_prompt) == (0, turn.tokens[:102].tolist(), 102)


def test_what_is_moved_is_not_lost() -> None:
    """If the content of a slot is moved into the oldest one, the content of that one is lost."""
    scheduler = Scheduler[Fake](6, 64)
    held = [Fake(i, 30) for i in range(6)]
    scheduler.submit(held)
    scheduler.admit()
    for sequence in held:
        compute(scheduler, sequence, 30)
    for number in (5, 4, 3, 2, 1):  # slot 5 is the oldest
        scheduler.release(held[number])
    scheduler.submit([Fake(7, 20)])
    (placement,) = scheduler.admit()
    assert placement.rescue == 5
    assert placement.lost is not None
    assert placement.lost[0] == 5
    assert placement.lost[1].tolist() == held[5].tokens[:30].tolist()
    # A sequence that waits for a saved prefix moves nothing.
    saving = Scheduler[Fake](6, 64, saved=Saved(20))
    held = [Fake(10 + i, 10) for i in range(6)]
    saving._saved = None
    saving.submit(held)
    saving.admit()
    for sequence in held:
        compute(saving, sequence, 10)
    saving._saved = Saved(20)
    for number in (5, 4, 3, 2, 1):
        held[number].length = 30
        compute(saving, held[number], 30)
        saving.release(held[number])
    saving.submit([Fake(17, 40)])
    (placement,) = saving.admit()
    assert (placement.sequence.status, placement.rescue) == (Status.PARKED, None)
    assert placement.lost is not None
    assert placement.lost[0] == placement.sequence.slot == 5
