"""Which slot a sequence gets, and after which prefix it begins: with plain objects and no model."""

from __future__ import annotations

import pytest
from fake_sequences import PROMPT, Fake, admitted, compute, start

from offgrid.engine.worker.prefix import MIN_COPY, MIN_REUSE
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Status


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
