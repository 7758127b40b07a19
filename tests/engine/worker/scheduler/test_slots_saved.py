"""Slots and saved prefixes: what is fetched for a sequence, and what is lost for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fake_sequences import Fake, admitted, compute

from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Status


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
        self, prompt: np.ndarray, before_image: Callable[[int], int], above: int, partition: str
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
    slot, tokens, n_prompt, partition, checkpoint = placement.lost
    assert (slot, tokens.tolist(), n_prompt) == (0, turn.tokens[:102].tolist(), 102)
    assert (partition, checkpoint) == ("", None)  # the slot can be cut


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
