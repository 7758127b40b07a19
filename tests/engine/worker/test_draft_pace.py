"""The controller of drafts on simulated machines and texts: no model, no clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from offgrid.engine.worker.drafts.costs import Costs
from offgrid.engine.worker.drafts.pace import MOST, DraftPace, Wish
from offgrid.engine.worker.drafts.trust import Acceptance, Trust


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
            wishes = [Wish(MOST, acceptance.trust(str(n))) for n in range(streams)]
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


def certain(rate: float) -> Trust:
    """Return the trust of many tokens, which comes close to a fixed probability."""
    return Trust(1e6 * rate, 1e6 * (1 - rate))


MEMORY_BOUND = Machine(base=0.03, row=0.002)
COMPUTE_BOUND = Machine(base=0.001, row=0.03)
GROUPED = Machine(base=0.01, row=0.005, group=4)
COMPUTE_HALF = Machine(base=0.01, row=0.01)


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
        certain(rate).expected(count)
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
        [count] = pace.choose(1, [Wish(MOST, certain(0.99))])
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


def stepped(rows: int) -> float:
    """Return the cost of a call whose rows are computed in sixteens, then in fours, then singly:
    the latter take almost twice as long."""
    return rows // 16 * 8.0 + rows % 16 // 4 * 2.6 + rows % 4 * 0.9 + 0.1


def test_cheap_groups_of_rows_are_found() -> None:
    """From 4 to 12 rows, more rows bring almost nothing; only 16 do."""
    pace = DraftPace(64)
    for _ in range(60):
        [count] = pace.choose(1, [Wish(MOST, certain(0.995))])
        seconds = 0.01 * stepped(1 + count)
        if count:
            pace.drafted(1, 1, count, 1 + count, seconds)
        else:
            pace.plain(1, seconds)
    assert (1 + count) % 16 == 0


def test_the_costs_of_an_earlier_load_are_used_at_once() -> None:
    known = {rows: stepped(rows) for rows in (1, 2, 4, 8, 16, 32, 48, 64)}
    pace = DraftPace(64, known)
    pace.plain(1, 0.01)
    assert pace.choose(1, [Wish(MOST, certain(0.95))]) == [3]  # more might cost too much
    pace.drafted(1, 1, 3, 4, 0.01 * stepped(4))
    for _ in range(20):
        pace.drafted(1, 1, 15, 16, 0.01 * stepped(16))
    assert pace.choose(1, [Wish(MOST, certain(0.999))])[0] >= 15
    assert pace.costs.known.keys() == known.keys()


def test_costs_relative_to_the_first_step() -> None:
    costs = Costs({1: 1.0, 4: 2.0})
    costs.plain(4, 0.5)
    assert costs.scale == 0.25
    assert costs.of(1) == 1.0
    fresh = Costs()
    fresh.plain(4, 0.5)
    assert (fresh.scale, fresh.known) == (0.5, {4: 1.0})


@pytest.mark.parametrize("long", [31, 63])
def test_a_long_draft_that_fails_does_not_end_the_others(long: int) -> None:
    """Every tenth draft is wrong from its first token on; the others more than pay for it."""
    pace, rng = DraftPace(64), random.Random(1)
    for _ in range(50):
        [count] = pace.choose(1, [Wish(long, certain(0.97))])
        seconds = COMPUTE_HALF.seconds(1 + count, rng)
        if count:
            pace.drafted(1, 1, count, 1 + count, seconds)
        else:
            pace.plain(1, seconds)
    plain = 0
    for step in range(300):
        [count] = pace.choose(1, [Wish(long, certain(0.97))])
        seconds = COMPUTE_HALF.seconds(1 + count, rng)
        plain += not count
        if count:
            pace.drafted(1, 1, count, 1 if step % 10 == 0 else 1 + count, seconds)
        else:
            pace.plain(1, seconds)
    assert plain == 0


@pytest.mark.parametrize(
    ("machine", "streams", "pays"),
    [(MEMORY_BOUND, 1, True), (MEMORY_BOUND, 4, True), (COMPUTE_BOUND, 1, False)],
)
def test_whether_any_draft_could_pay(machine: Machine, streams: int, pays: bool) -> None:
    """Else nothing is asked that takes time to propose. It is tried again when costs change."""
    rng = random.Random(1)
    rows = (1, 2, 4, 8, 16, 32, 64)
    costs = {n: machine.seconds(n, rng) / machine.seconds(1, rng) for n in rows}
    pace = DraftPace(64, costs)
    assert not pace.may_pay(streams, streams)  # it is not known how long a step takes
    simulate(machine, [0.99] * streams, pace=pace, steps=600)
    assert {pace.may_pay(streams, streams) for _ in range(40)} == {pays}
    pace.drafted(streams, streams, 1, streams, 60.0)  # the account is empty
    for _ in range(40):
        pace.drafted(streams, streams, 1, streams, 60.0)
    assert not pace.may_pay(streams, streams)


def test_one_draft_cannot_overdraw_the_account_by_much() -> None:
    pace = DraftPace(64, {rows: float(rows) / 2 + 0.5 for rows in range(1, 65)})
    pace.plain(1, 0.02)
    [count] = pace.choose(1, [Wish(MOST, certain(0.999))])
    assert 0 < count <= 8
    pace.drafted(1, 1, count, 1, 0.02 * (1 + count / 2))
    assert pace.choose(1, [Wish(MOST, certain(0.999))]) == [0]
    for _ in range(250):
        pace.plain(1, 0.02)
    assert pace.choose(1, [Wish(MOST, certain(0.999))]) != [0]


def test_a_slower_machine_keeps_the_relations() -> None:
    """When everything takes three times as long, drafts that paid still pay."""
    pace = DraftPace(64)
    simulate(MEMORY_BOUND, [0.9], pace=pace)
    slow = Machine(3 * MEMORY_BOUND.base, 3 * MEMORY_BOUND.row)
    assert simulate(slow, [0.9], pace=pace, steps=500).speed > 3.0


def test_no_more_rows_than_are_allowed() -> None:
    pace = DraftPace(8)
    for _ in range(50):
        counts = pace.choose(2, [Wish(MOST, certain(0.99))] * 2)
        assert 2 + sum(counts) <= 8
        if any(counts):
            pace.drafted(2, 2, counts[0], 2 + sum(counts), 0.03)
        else:
            pace.plain(2, 0.03)
    assert sum(counts) == 6


@pytest.mark.parametrize(
    ("machine", "streams", "longest"),
    [
        (Machine(0.03, 0.01), 1, 0.5),
        (Machine(0.06, 0.002), 2, 0.25),
        (Machine(0.2, 0.02), 1, 4 * 0.22),
    ],
)
def test_no_step_is_much_longer_than_a_pause(
    machine: Machine, streams: int, longest: float
) -> None:
    """Half a second if all streams draft, a quarter if one does not, or four plain steps if
    these are longer."""
    pace, rng = DraftPace(64), random.Random(1)
    taken = []
    for _ in range(300):
        [count] = pace.choose(streams, [Wish(MOST, certain(0.99))])
        calls = [1 + count] if streams == 1 else [streams, count] if count else [streams]
        seconds = sum(machine.seconds(rows, rng) for rows in calls)
        taken.append(seconds)
        if count:
            pace.drafted(streams, 1, count, streams + count, seconds)
        else:
            pace.plain(streams, seconds)
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
