"""The automatic number of threads on simulated machines: speed, trials and their cost.

All time is simulated and all noise comes from seeds, so each figure is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from simulated_machine import Machine, Run, fixed, run, works

from offgrid.engine.worker.threads.control import Kind, Threads
from offgrid.engine.worker.threads.trial import Trial, Verdict
from offgrid.engine.worker.threads.tuner import Tuner
from offgrid.engine.worker.threads.work import Usual, Work

MINUTE = 60.0
LONG = 0.1
"""Seconds of a step with one thread on machines with many cores."""


def automatic(machine: Machine, landmarks: tuple[int, ...] = ()) -> Threads:
    return Threads(0, len(machine.cores), len(machine.cores), landmarks)


def seeded(machine: Machine, seed: int) -> Machine:
    return dataclasses.replace(machine, seed=seed)


def check(
    machine: Machine,
    share: float,
    *,
    cost: float = 0.01,
    probes: int = 150,
    seconds: float = MINUTE,
    **more: int,
) -> Run:
    """Compare with the best fixed number, with three seeds. ``cost`` and ``probes``: most of the
    time, and most steps, that trials may take; ``more``: landmarks."""
    best = max(fixed(machine, seconds).values())
    for seed in (1, 2, 3):
        simulated = seeded(machine, seed)
        found = run(simulated, automatic(simulated, tuple(more.values())), seconds)
        assert found.speed >= share * best, (seed, found.speed / best, found.changes)
        assert found.cost <= cost * found.seconds, (seed, found.cost)
        assert found.probes <= probes, seed
    return found


# --- quiet machines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "seconds"), [(0.0006, 3), (0.03, 60), (1.0, 120)], ids=["starter", "135 M", "8 B"]
)
def test_a_quiet_machine_keeps_its_cores(step: float, seconds: float) -> None:
    found = check(Machine(step=step, waiting=step / 150), 0.98, probes=300, seconds=seconds)
    assert found.changes == []


def test_a_noisy_machine_keeps_its_cores() -> None:
    check(Machine(noise=0.25), 0.98)


def test_many_quiet_cores() -> None:
    found = check(Machine(cores=(1.0,) * 8, step=LONG), 0.98)
    assert found.changes == []


def test_slow_cores_are_left_out() -> None:
    machine = Machine(cores=(1.0,) * 4 + (0.4,) * 4, step=LONG)
    assert max(fixed(machine, 5).items(), key=lambda pair: pair[1])[0] == 4
    found = check(machine, 0.95)
    assert found.changes[-1][1] == 4


def test_the_number_of_fast_cores_is_tried() -> None:
    """Half of the cores is one too many here, so only a landmark leads to the best number."""
    machine = Machine(cores=(1.0,) * 6 + (0.4,) * 8, step=LONG)
    found = check(machine, 0.95, landmark=6)
    assert found.changes[-1][1] == 6


def test_threads_beyond_the_memory_bandwidth_are_left_out() -> None:
    machine = Machine(cores=(1.0,) * 8, step=LONG, memory=3, waiting=0.001)
    found = check(machine, 0.95, probes=600)
    assert found.changes[-1][1] in (3, 4, 5)


# --- neighbours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_busy_neighbours_on_two_cores(count: int) -> None:
    found = check(Machine(neighbours=lambda now: count), 0.95)
    assert found.changes[-1][1] == 1


def test_one_core_of_eight_is_taken() -> None:
    machine = Machine(cores=(1.0,) * 8, step=LONG, neighbours=lambda now: 1)
    found = check(machine, 0.95, probes=200)
    assert found.changes[-1][1] == 7


def test_all_of_eight_cores_are_taken() -> None:
    """Here the times of steps vary as much as their mean, and the numbers differ little."""
    machine = Machine(cores=(1.0,) * 8, step=LONG, neighbours=lambda now: 8)
    check(machine, 0.75, cost=0.1, probes=250)


def test_a_few_very_slow_steps_count() -> None:
    """Nine of ten steps are faster with two threads; the tenth takes far longer."""
    machine = Machine(neighbours=lambda now: 1, rare=True)
    assert max(fixed(machine, 5).items(), key=lambda pair: pair[1])[0] == 1
    found = check(machine, 0.8, probes=400)
    assert found.changes[-1][1] == 1


def since(found: Run, moment: float) -> float:
    """Return how long after a moment the number changed for the last time within 20 s."""
    return max(
        (when - moment for when, _ in found.changes if moment < when < moment + 20), default=0
    )


@pytest.mark.parametrize("sees", [True, False], ids=["load known", "load unknown"])
def test_neighbours_come_and_go(sees: bool) -> None:
    """Two come after 20 s, leave after 40 s, and so on."""
    machine = Machine(neighbours=lambda now: 2 * (int(now / 20) % 2))
    reactions: list[float] = []
    numbers = fixed(machine, 80)
    for seed in range(4):
        simulated = seeded(machine, seed)
        found = run(simulated, automatic(simulated), 80, sees_neighbours=sees)
        assert [number for _, number in found.changes][:3] == [1, 2, 1], seed
        reactions += [since(found, moment) for moment in (20, 40, 60)]
        assert found.speed > 1.02 * max(numbers.values()), seed
    reactions.sort()
    assert reactions[len(reactions) // 2] < 4.0
    assert reactions[-1] < 10.0


def test_the_load_changes_during_a_trial() -> None:
    """The trial is given up, since it compares with steps from before, and another one begins."""
    tuner, work = Tuner(2, 2), Work(1, 50)

    def steps(count: int, alone: float) -> list[int]:
        used = []
        for _ in range(count):
            used.append(tuner.choose(work))
            tuner.observe(work, used[-1], alone if used[-1] == 1 else 0.1)
        return used

    steps(8, alone=0.1)
    tuner.neighbours_use(1.0)
    used = steps(4 + 24, alone=0.1)  # a trial without a result so far
    assert used[:4] == [2, 2, 2, 2]
    assert used[4:10] == [1, 1, 1, 1, 2, 2]
    tuner.neighbours_use(2.0)
    assert steps(4, alone=0.05) == [2, 2, 2, 2]
    steps(40, alone=0.05)
    assert tuner.number == 1


def test_neighbours_that_come_and_go_quickly() -> None:
    machine = Machine(neighbours=lambda now: int(now / 3) % 2)
    best = max(fixed(machine, MINUTE).values())
    for seed in range(3):
        simulated = seeded(machine, seed)
        assert run(simulated, automatic(simulated), MINUTE).speed > 0.85 * best


@pytest.mark.parametrize("most", [1.5, 30.0], ids=["two processors more", "many more"])
def test_other_processors_of_the_machine_are_busy_now_and_then(most: float) -> None:
    """What happens there says nothing, and must not keep the number where it is. At first, there
    are neighbours on these too."""
    for seed in (1, 2, 3):
        loads = random.Random(seed)
        machine = Machine(
            neighbours=lambda now: 2 * (now < 10),
            elsewhere=lambda now, loads=loads: loads.uniform(0, most),  # type: ignore[misc]
            seed=seed,
        )
        found = run(machine, automatic(machine), MINUTE)
        assert found.changes[0][1] == 1
        assert found.changes[-1][1] == 2, found.changes
        assert found.changes[-1][0] < 25


def test_the_neighbours_left_while_one_thread_was_fast() -> None:
    """One thread is as fast beside one neighbour as without: only the load and trials tell."""
    machine = Machine(neighbours=lambda now: now < 20)
    found = run(machine, automatic(machine), 50)
    assert found.changes[-1][1] == 2
    assert found.changes[-1][0] < 22
    unseen = run(machine, automatic(machine), 120, sees_neighbours=False)
    assert unseen.changes[-1][1] == 2


def test_stalls_for_no_reason() -> None:
    """One step of 200 takes fifty times as long, whatever the number of threads."""
    machine = Machine(hiccup=0.005)
    for seed in range(3):
        simulated = seeded(machine, seed)
        found = run(simulated, automatic(simulated), MINUTE)
        # The stalls take a fifth of the time.
        assert found.speed > 0.8 * fixed(machine, 10)[2] / 1.245
        assert len(found.changes) <= 2


# --- prefill and contexts -------------------------------------------------------------------------


def test_prefill_has_its_own_number() -> None:
    """Beside two neighbours, long steps are faster with two threads, short ones with one."""
    machine = Machine(neighbours=lambda now: 2, row=0.02, stall=2.5, step=0.02)
    threads = automatic(machine)
    prompts = itertools.cycle([Work(512, 512), Work(512, 1024)])
    numbers = fixed(machine, MINUTE, lambda: itertools.cycle([Work(512, 512)]))
    assert numbers[2] > 1.2 * numbers[1]
    found = run(machine, threads, MINUTE, prompts, Kind.PREFILL)
    assert threads.in_use(Kind.PREFILL) == 2
    assert found.cost < 0.03 * found.seconds


def test_other_lengths_and_numbers_of_rows_are_no_reason_for_trials() -> None:
    """Short and long answers with one and eight rows follow each other."""
    machine = Machine()
    steps = itertools.chain.from_iterable(
        itertools.islice(works(rows, prompt=prompt), 200)
        for rows, prompt in itertools.cycle([(1, 30), (8, 30), (1, 3000), (4, 900)])
    )
    found = run(machine, automatic(machine), MINUTE, steps)
    assert found.changes == []
    assert found.cost < 0.01 * found.seconds


def test_a_fixed_number_is_never_changed() -> None:
    machine = Machine(neighbours=lambda now: 2)
    found = run(machine, Threads(2, 2, 2), 10)
    assert (found.probes, found.changes) == (0, [])
    assert run(machine, Threads(0, 1, 1), 10).probes == 0  # there is no other number
    assert Threads(7, 2, 2).choose(Kind.DECODE, Work(1, 1)) == 7


# --- parts ----------------------------------------------------------------------------------------


def test_shapes_are_learned_separately() -> None:
    usual = Usual()
    for _ in range(3):
        usual.learn(Work(1, 50), 0.01)
    assert usual.of(Work(1, 60)) == pytest.approx(0.01)
    assert usual.of(Work(2, 50)) is None
    assert usual.of(Work(1, 2000)) is None
    usual.learn(Work(512, 512), 1.0)
    assert usual.of(Work(500, 512)) == pytest.approx(500 / 512)
    usual.learn(Work(1, 50), 0.5)  # a stall is not usual: it counts as twice the mean
    assert usual.of(Work(1, 50)) == pytest.approx(0.01 + 0.01 / 4)
    usual.scale(2.0)
    assert usual.of(Work(1, 50)) == pytest.approx(0.025)


def verdict(control: list[float], probe: list[float]) -> Verdict:
    trial = Trial(1, [(0.02, 0.02 * ratio) for ratio in control])
    given = iter(probe)
    while trial.verdict() is Verdict.OPEN:
        ratio = next(given, None) if trial.probes_next() else control[0]
        if ratio is None:
            break
        trial.add(0.02, 0.02 * ratio)
    return trial.verdict()


def test_verdicts_of_trials() -> None:
    usual = [1.0, 1.02, 0.98, 1.01]
    assert verdict(usual, [0.8, 0.81, 0.8, 0.79] * 4) is Verdict.BETTER
    assert verdict(usual, [50.0]) is Verdict.WORSE  # one step that waits for a stopped thread
    assert verdict(usual, [1.1, 1.12, 1.1, 1.11] * 4) is Verdict.WORSE
    assert verdict(usual, [1.0, 1.01, 0.99, 1.0] * 40) is Verdict.WORSE  # no gain
    assert verdict(usual, [0.8]) is Verdict.OPEN
    # A single stall of the number in use is no reason to change it.
    assert verdict([1.0] * 15 + [50.0], [1.9] * 8) is Verdict.OPEN
    assert verdict([40.0, 60.0, 50.0, 45.0], [1.9] * 32) is Verdict.BETTER
