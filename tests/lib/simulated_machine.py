"""A machine with cores and busy neighbours that tells how long a step takes. No clock, no sleeps.

The model: a step is divided evenly over the threads, and its end is that of the slowest thread. A
neighbour keeps one core busy. Threads that find no free core share one with a neighbour, and all
others wait for them many times per step: such a step takes several times as long, sometimes fifty
times. One thread alone waits for nobody, and only shares its core.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from offgrid.engine.worker.threads.control import Kind, Threads
from offgrid.engine.worker.threads.work import Work


@dataclass
class Machine:
    """A simulated machine.

    Attributes:
        cores: the speed of each core, fastest first.
        step: seconds of a decode step of one row with one thread of speed 1.
        row: part of ``step`` that each further row, and each token of a prompt, adds.
        memory: threads beyond which a decode step gets no faster.
        waiting: seconds that each thread adds to a step.
        stall: how many times as long a step takes if a thread has no core of its own.
        noise: standard deviation of a step, relative to its time.
        neighbours: busy programs at a time in seconds.
        elsewhere: busy programs on processors of the machine that this process may not use.
        rare: whether most steps without enough cores are fast and a few of them very slow;
            otherwise their times are spread evenly.
        hiccup: probability of a step that takes fifty times as long for no reason.
    """

    cores: tuple[float, ...] = (1.0, 1.0)
    step: float = 0.03
    row: float = 0.3
    memory: float = 1e9
    waiting: float = 0.0002
    stall: float = 6.0
    noise: float = 0.03
    neighbours: Callable[[float], float] = lambda now: 0.0
    elsewhere: Callable[[float], float] = lambda now: 0.0
    rare: bool = False
    hiccup: float = 0.0
    seed: int = 1
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def usual(self, work: Work, threads: int, now: float) -> float:
        """Return the mean time of a step in seconds."""
        used = self.cores[:threads]
        seconds = self.step * (1 + self.row * (work.tokens - 1)) * (1 + work.context / 4000)
        parallel = len(used) * used[-1]
        if work.tokens <= 8:
            parallel = min(parallel, self.memory)
        seconds = seconds / parallel + self.waiting * threads
        taken = threads + self.neighbours(now) - len(self.cores)
        if taken <= 0:
            return seconds
        shared = min(taken, threads)
        if threads == 1:
            return seconds * (1 + 0.5 * shared)
        # A long step waits less often.
        stall = 1 + (self.stall - 1) / (1 + seconds / 0.2)
        return seconds * (1 + (stall - 1) * min(1.0, 0.5 + shared / (2 * threads)))

    def seconds(self, work: Work, threads: int, now: float) -> float:
        """Return the time of one step in seconds."""
        usual = self.usual(work, threads, now)
        alone = threads + self.neighbours(now) <= len(self.cores)
        if alone or threads == 1:
            usual *= max(0.5, self.random.gauss(1, self.noise))
        elif self.rare:  # most steps are fast, a few are very slow
            usual *= 0.3 if self.random.random() < 0.9 else 7.3
        else:
            sigma = 0.8 / (1 + usual / 0.3)  # a long step is a mean over many operations
            usual *= self.random.lognormvariate(-sigma * sigma / 2, sigma)
        return usual * (50 if self.random.random() < self.hiccup else 1)


@dataclass
class Run:
    """What a run over a simulated machine has shown.

    Attributes:
        tokens: generated or prefilled tokens.
        seconds: simulated time.
        probes: steps with another number than the one in use.
        cost: seconds that these took longer than the number in use takes on average.
        changes: times at which the number in use changed, with the new number.
    """

    tokens: int = 0
    seconds: float = 0.0
    probes: int = 0
    cost: float = 0.0
    changes: list[tuple[float, int]] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def works(rows: int = 1, answer: int = 400, prompt: int = 30) -> Iterable[Work]:
    """Yield the decode steps of endless answers of some length."""
    while True:
        for position in range(prompt, prompt + answer):
            yield Work(rows, position)


def run(
    machine: Machine,
    threads: Threads,
    seconds: float,
    steps: Iterable[Work] | None = None,
    kind: Kind = Kind.DECODE,
    sees_neighbours: bool = True,
) -> Run:
    """Let a controller choose the threads of steps for some simulated seconds."""
    result, told, number = Run(), -1.0, threads.in_use(kind)
    for work in steps or works():
        if result.seconds >= seconds:
            break
        if sees_neighbours and result.seconds >= told + 0.5:
            told = result.seconds
            # Beside threads that take part of the cores, neighbours get less.
            seen = min(machine.neighbours(told), len(machine.cores)) * 0.9
            threads.neighbours_use(seen + machine.elsewhere(told))
        chosen, now = threads.choose(kind, work), result.seconds
        took = machine.seconds(work, chosen, now)
        if chosen != number:
            result.probes += 1
            result.cost += took - machine.usual(work, number, now)
        threads.observe(kind, work, took)
        if threads.in_use(kind) != number:
            number = threads.in_use(kind)
            result.changes.append((result.seconds, number))
        result.seconds += took
        result.tokens += work.tokens
    return result


def fixed(machine: Machine, seconds: float, steps: Callable[[], Iterable[Work]] = works
          ) -> dict[int, float]:  # fmt: skip
    """Return the mean speed with each fixed number of threads over some seconds."""
    speeds = {}
    for number in range(1, len(machine.cores) + 1):
        now, tokens = 0.0, 0
        for work in itertools.islice(steps(), 4000):
            if now >= seconds:
                break
            now += machine.usual(work, number, now)
            tokens += work.tokens
        speeds[number] = tokens / now
    return speeds
