"""The controller of drafts on simulated machines and texts: no model, no clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from offgrid.engine.worker.drafts.pace import MOST, Acceptance, DraftPace, Wish, expected


@dataclass
class Machine:
    """Times of decode calls by their number of rows.

    Attributes:
        base: seconds that a call takes, however few rows it has.
        row: seconds of each row.
        group: rows are computed in groups of this size; a group takes as long as a full one.
        noise: how much the time of a call varies, relative to it.
    """

    base: float
    row: float
    group: int = 1
    noise: float = 0.0

    def seconds(self, rows: int, rng: random.Random) -> float:
        rows = -(-rows // self.group) * self.group
        return (self.base + self.row * rows) * (1 + self.noise * rng.random())


@dataclass
class Outcome:
    """Steps, tokens and seconds of a simulated run; ``plain`` is what the tokens take without."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    plain: float = 0.0
    drafted: int = 0

    @property
    def speed(self) -> float:
        """Relative to a run without drafts."""
        return self.plain / self.seconds


def simulate(
    machine: Machine, rates: list[float], steps: int = 2000, *, seed: int = 1,
    known: Callable[[int], bool] = lambda step: True, pace: DraftPace | None = None,
) -> Outcome:  # fmt: skip
    """Let streams generate, each of which knows a draft in some steps.

    Args:
        machine: takes the time.
        rates: of each stream: the probability that a proposed token is right.
        steps: how many.
        seed: of the texts.
        known: whether the sources have a draft in a step.
        pace: continues with what another run has learnt.
    """
    rng = random.Random(seed)
    pace = pace or DraftPace(64)
    streams, outcome = len(rates), Outcome()
    acceptance = Acceptance()
    for step in range(steps):
        wishes = []
        if known(step):
            wishes = [Wish(MOST, acceptance.rate(str(n))) for n in range(streams)]
        counts = pace.choose(streams, wishes) or [0] * streams
        accepted = []
        for number, (rate, count) in enumerate(zip(rates, counts, strict=True)):
            agreed = 0
            while agreed < max(count, 1) and rng.random() < rate:
                agreed += 1
            if wishes:
                acceptance.judge(str(number), agreed, min(agreed + 1, max(count, 1)))
            accepted.append(min(agreed, count))
        drafting = [count for count in counts if count]
        calls = [streams]
        if drafting:
            rest = len(drafting) * drafting[0]
            calls = [streams + rest] if len(drafting) == streams else [streams, rest]
        seconds = sum(machine.seconds(rows, rng) for rows in calls)
        tokens = streams + sum(accepted)
        if drafting:
            pace.drafted(streams, len(drafting), drafting[0], tokens, seconds)
        else:
            pace.plain(streams, seconds)
        outcome.steps += 1
        outcome.tokens += tokens
        outcome.seconds += seconds
        outcome.drafted += sum(counts)
        outcome.plain += tokens / streams * machine.seconds(streams, rng)
    return outcome


MEMORY_BOUND = Machine(base=0.03, row=0.002)
COMPUTE_BOUND = Machine(base=0.001, row=0.03)
GROUPED = Machine(base=0.01, row=0.005, group=4)


@pytest.mark.parametrize(
    ("machine", "rate", "least"),
    [
        (MEMORY_BOUND, 0.98, 6.0),
        (MEMORY_BOUND, 0.8, 2.8),
        (MEMORY_BOUND, 0.5, 1.5),
        (GROUPED, 0.95, 2.9),
        (COMPUTE_BOUND, 0.98, 0.98),
    ],
)
def test_a_predictable_stream_is_as_much_faster_as_the_machine_allows(
    machine: Machine, rate: float, least: float
) -> None:
    best = max(
        expected(rate, count)
        * machine.seconds(1, random.Random(1))
        / machine.seconds(1 + count, random.Random(1))
        for count in range(MOST + 1)
    )
    speed = simulate(machine, [rate]).speed
    assert speed >= least
    assert speed >= 0.93 * best


@pytest.mark.parametrize("machine", [MEMORY_BOUND, COMPUTE_BOUND, GROUPED])
@pytest.mark.parametrize("streams", [1, 4, 8])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_unpredictable_streams_lose_next_to_nothing(
    machine: Machine, streams: int, rate: float, noise: float
) -> None:
    noisy = Machine(machine.base, machine.row, machine.group, noise)
    outcome = simulate(noisy, [rate] * streams, 1000, known=lambda step: step % 3 == 0)
    # At most 1 % of the time, and what is lost once while nothing is known of the machine.
    once = 3 * noisy.seconds(streams, random.Random(1))
    assert outcome.seconds - once <= 1.02 * outcome.plain


def test_a_wrong_acceptance_costs_no_more_than_the_account() -> None:
    """The rate that is claimed is not what comes: no token is ever accepted."""
    pace, rng = DraftPace(64), random.Random(1)
    seconds = 0.0
    for _ in range(2000):
        [count] = pace.choose(1, [Wish(MOST, 0.99)])
        taken = MEMORY_BOUND.seconds(1 + count, rng)
        seconds += taken
        if count:
            pace.drafted(1, 1, count, 1, taken)
        else:
            pace.plain(1, taken)
    plain = 2000 * MEMORY_BOUND.seconds(1, rng)
    assert seconds <= 1.015 * plain + 4 * MEMORY_BOUND.seconds(1, rng)


def test_one_predictable_stream_does_not_slow_down_the_others() -> None:
    """Its drafts would make each step take twice as long for all."""
    machine = Machine(base=0.02, row=0.01)
    outcome = simulate(machine, [0.95, 0.0, 0.0, 0.0])
    assert outcome.seconds <= 1.02 * outcome.steps * machine.seconds(4, random.Random(1))


def test_all_streams_predictable() -> None:
    assert simulate(MEMORY_BOUND, [0.95] * 4).speed > 2.5


def test_the_costs_are_measured_again_on_a_machine_that_has_changed() -> None:
    """At first each row takes as long as a step, because other programs run; later it does not."""
    pace = DraftPace(64)
    busy = simulate(COMPUTE_BOUND, [0.9], pace=pace)
    assert busy.speed > 0.98
    quiet = simulate(MEMORY_BOUND, [0.9], pace=pace, steps=6000)
    assert quiet.speed > 2.2


def test_a_slower_machine_keeps_the_relations() -> None:
    """When everything takes three times as long, drafts that paid still pay."""
    pace = DraftPace(64)
    simulate(MEMORY_BOUND, [0.9], pace=pace)
    slow = Machine(3 * MEMORY_BOUND.base, 3 * MEMORY_BOUND.row)
    assert simulate(slow, [0.9], pace=pace, steps=500).speed > 3.0


def test_no_more_rows_than_are_allowed() -> None:
    pace = DraftPace(8)
    for _ in range(50):
        counts = pace.choose(2, [Wish(MOST, 0.99)] * 2)
        assert 2 + sum(counts) <= 8
        if any(counts):
            pace.drafted(2, 2, counts[0], 2 + sum(counts), 0.03)
        else:
            pace.plain(2, 0.03)
    assert sum(counts) == 6


def test_the_acceptance_follows_what_comes() -> None:
    acceptance = Acceptance()
    for _ in range(40):
        acceptance.judge("a", 3, 3)
        acceptance.judge("b", 0, 1)
    assert acceptance.rate("a") > 0.95
    assert acceptance.rate("b") < 0.1
    assert acceptance.rate("c") == 0.5


@pytest.mark.parametrize(
    ("machine", "longest"),
    [(Machine(0.03, 0.01), 0.25), (Machine(0.2, 0.02), 4 * 0.22)],
)
def test_no_step_is_much_longer_than_a_pause(machine: Machine, longest: float) -> None:
    """A quarter of a second, or four plain steps if these are longer."""
    pace, rng = DraftPace(64), random.Random(1)
    taken = []
    for _ in range(300):
        [count] = pace.choose(1, [Wish(MOST, 0.99)])
        seconds = machine.seconds(1 + count, rng)
        taken.append(seconds)
        if count:
            pace.drafted(1, 1, count, 1 + count, seconds)
        else:
            pace.plain(1, seconds)
    assert taken[0] < max(taken[50:]) <= longest


def test_how_long_a_step_with_drafts_takes() -> None:
    """Prefill gets as many more tokens in it."""
    pace = DraftPace(64)
    for _ in range(40):
        pace.plain(2, 0.01)
        pace.drafted(2, 2, 3, 8, 0.03)
        pace.drafted(2, 1, 5, 7, 0.016)
    assert pace.slowdown(2, 2, 3) == pytest.approx(3.0, rel=0.05)
    assert pace.slowdown(2, 1, 5) == pytest.approx(1.6, rel=0.05)
