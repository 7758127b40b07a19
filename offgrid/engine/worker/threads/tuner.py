"""Finds the best number of threads for one kind of step. Pure: callers pass the measured times.

The number in use is kept until a trial shows a better one. Three things start a trial:

- *an alarm*: recent steps are much slower or faster than usual, so other programs came or left;
- *the neighbours*: the processor time that other programs use has changed;
- *time*: now and then another number is tried, ever more rarely while nothing changes.

Trials are paid from a budget, a small part of the time of all steps. Trials for the first two
reasons may exceed it: something has changed, and the number in use is probably bad now.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from offgrid.engine.worker.threads.trial import Series, Step, Trial, Verdict
from offgrid.engine.worker.threads.work import Usual, Work

_TICK = 1e-6
"""Seconds that a step takes at least, however coarse the clock is."""
_SHARE = 0.005
"""Part of the time of steps that trials may cost."""
_CREDIT = 0.1
"""Seconds that trials may cost at the start."""
_MOST_CREDIT, _MOST_DEBT = 1.0, 0.5
_CHECK_SECONDS = 0.05
"""Time of steps between two looks at the recent steps."""
_WINDOWS = (4, 16, 64)
"""Numbers of recent steps whose mean is compared with the usual time."""
_ENOUGH = _WINDOWS[0]
"""Steps with the number in use before a trial."""
_USUAL = _WINDOWS[1]
"""Steps with the number in use that count in a trial, if nothing has changed."""
_SLOWER, _FASTER = 1.3, 0.75
"""Time of recent steps, relative to usual steps, that is an alarm."""
_MUCH_SLOWER = 2.0
"""The same, soon after another alarm, or if trials have cost more than they may."""
_CHANCE = 1.5
"""Standard errors of the mean by which it must be slower."""
_NEAR_PAUSE, _FAR_PAUSE, _LAST_PAUSE = 2.0, 4.0, 60.0
"""Seconds until a near or distant number is tried for the first time, and the longest pause."""
_FEWEST = 4
"""Steps with a number before it can win; doubled for each loss, up to four times."""
_MOST_DOUBLED = 4
_LOAD_CHANGED, _LOAD_CHANGED_MUCH = 0.4, 0.9
"""Change of the neighbours' load, in cores, that is a reason for trials; the latter soon after
another reason."""


class Tuner:
    """The number of threads for one kind of step.

    Args:
        start: the number at the beginning.
        most: the largest number.
        landmarks: further numbers that may be the best, such as that of the fast cores.

    Attributes:
        number: the number in use.
    """

    def __init__(self, start: int, most: int, landmarks: Iterable[int] = ()) -> None:
        self.number = start
        self._most = most
        self._landmarks = sorted({start, most, *landmarks}, reverse=True)
        self._usual = Usual()
        self._recent: deque[Step] = deque(maxlen=_WINDOWS[-1])
        self._trial: Trial | None = None
        self._clock = 0.0
        self._credit = _CREDIT
        """Seconds that trials without a reason may cost."""
        self._losses: dict[int, int] = {}
        """How often each number has lost since the neighbours' load changed."""
        self._due: dict[int, float] = {}
        self._costs: dict[int, float] = {}
        self._urgent: list[int] = []
        """Numbers that there is a reason to try, the most promising first."""
        self._reasoned = False
        """Whether there was a reason for the last trials, and none of them has won."""
        self._reason_at = -_LAST_PAUSE
        """When a reason last counted. Others count after a pause."""
        self._pause = _NEAR_PAUSE
        self._check_at = 0.0
        self._tolerated = 1.0
        """Time relative to the usual one that was found to have no remedy."""
        self._load = 0.0
        self._load_before = 0.0
        """The load when it was last a reason."""

    # --- steps --------------------------------------------------------------------------------

    def choose(self, work: Work) -> int:
        """Return the number of threads for the next step."""
        if self._usual.of(work) is None or len(self._recent) < _ENOUGH:
            return self.number  # there is nothing to compare it with
        if self._trial is None:
            self._begin_trial()
        trial = self._trial
        return trial.number if trial is not None and trial.probes_next() else self.number

    def observe(self, work: Work, threads: int, seconds: float) -> None:
        """Learn from a step.

        Args:
            work: what it computed.
            threads: the number that :meth:`choose` returned for it.
            seconds: time that it took.
        """
        seconds = max(seconds, _TICK)
        self._clock += seconds
        self._credit = min(_MOST_CREDIT, self._credit + _SHARE * seconds)
        usual, trial = self._usual.of(work), self._trial
        if usual is None:
            if threads == self.number:
                self._usual.learn(work, seconds)
        elif trial is not None:
            if threads == (trial.number if trial.probes_next() else self.number):
                trial.add(usual, seconds)
                self._judge(trial)
        else:
            self._recent.append((usual, seconds))
            self._usual.learn(work, seconds)
            if self._clock >= self._check_at:
                self._check_at = self._clock + _CHECK_SECONDS
                self._watch()

    # --- trials -------------------------------------------------------------------------------

    def _begin_trial(self) -> None:
        if self._urgent:
            number: int | None = self._urgent.pop(0)
        else:
            number = self._next_due()
        if number is not None and number != self.number:
            # Without a free core, most steps may be fast and a few very slow.
            doubts = self._losses.get(number, 0) + 2 * (self.number < number > self._free())
            doubled = min(_MOST_DOUBLED, doubts)
            self._trial = Trial(number, list(self._recent)[-_USUAL:], _FEWEST << doubled)

    def _next_due(self) -> int | None:
        typical = self._recent[-1][0]
        affordable = [
            number
            for number in self._others()
            if self._due.setdefault(number, self._clock + self._first_pause(number)) <= self._clock
            and self._costs.get(number, typical) <= self._credit
        ]
        return min(affordable, key=lambda number: self._due[number], default=None)

    def _others(self) -> Iterator[int]:
        near, number = self._near, self.number
        for other in {number - near, number + near, number // 2, 2 * number, *self._landmarks}:
            if 1 <= other <= self._most and other != number:
                yield other

    @property
    def _near(self) -> int:
        """Distance of the numbers that are tried most often."""
        return max(1, self.number // 12)

    def _first_pause(self, number: int) -> float:
        return _NEAR_PAUSE if abs(number - self.number) <= self._near else _FAR_PAUSE

    def _judge(self, trial: Trial) -> None:
        verdict = trial.verdict()
        if verdict is Verdict.OPEN:
            return
        self._trial = None
        # One step may take very long by chance; not all of that is held against the next trials.
        most = max(_MOST_DEBT, trial.probe.usual)
        self._credit -= min(max(0.0, trial.cost), most)
        if verdict is Verdict.BETTER:
            self._change(trial)
            return
        self._lost(trial.number)
        self._costs[trial.number] = max(0.0, trial.cost)
        if self._reasoned and not self._urgent:
            # Nothing helps: the steps are slow for another reason.
            self._reasoned = False
            self._tolerated = max(1.0, trial.control.mean)
            self._reason_at = self._clock
            self._pause = min(_LAST_PAUSE, 2 * self._pause)

    def _lost(self, number: int) -> None:
        losses = self._losses[number] = self._losses.get(number, 0) + 1
        pause = min(_LAST_PAUSE, self._first_pause(number) * 2.0 ** min(losses, 8) / 2)
        self._due[number] = self._clock + pause

    def _change(self, trial: Trial) -> None:
        old, self.number = self.number, trial.number
        self._usual.scale(trial.probe.mean)
        self._recent.clear()
        self._due.clear()
        self._lost(old)
        self._tolerated, self._pause = 1.0, _NEAR_PAUSE
        self._reasoned, self._reason_at = False, -_LAST_PAUSE
        # Where this number was better, one further on may be better still.
        further = 2 * self.number - old
        near = self.number + (self._near if self.number > old else -self._near)
        beyond = [number for number in (further, near) if 1 <= number <= self._most]
        self._urgent = [n for n in dict.fromkeys(beyond + self._urgent) if n != self.number]

    # --- reasons for trials -------------------------------------------------------------------

    def _watch(self) -> None:
        """Compare recent steps with usual ones."""
        recent = list(self._recent)
        if self._tolerated > 1.0:
            mean = Series(recent[-_USUAL:]).mean
            self._tolerated = max(1.0, min(self._tolerated, mean))
        if self._rests(strong=True):
            return
        weak = self._credit >= 0.0 and not self._rests(strong=False)
        limit = self._tolerated * (_SLOWER if weak else _MUCH_SLOWER)
        for count in (count for count in _WINDOWS if len(recent) >= count):
            series = Series(recent[-count:])
            chance = _CHANCE * series.spread * series.mean / math.sqrt(count)
            if series.mean_without_stalls > limit + chance:
                self._alarm(self._fewer(), count)
                return
        if len(recent) >= _USUAL // 2 and Series(recent[-_USUAL // 2 :]).mean < _FASTER:
            self._alarm(self._more(), _USUAL // 2)

    def _rests(self, *, strong: bool) -> bool:
        """Whether a reason comes too soon after the last one. Strong ones never wait for long."""
        pause = min(self._pause, _NEAR_PAUSE) if strong else self._pause
        return self._clock < self._reason_at + pause

    def _alarm(self, numbers: list[int], count: int) -> None:
        """Plan trials in which only the last ``count`` steps count."""
        if not numbers:
            return
        self._trial = None  # it compares with steps from before
        self._urgent, self._reasoned = numbers, True
        self._reason_at = self._clock
        while len(self._recent) > count:
            self._recent.popleft()

    def neighbours_use(self, cores: float) -> None:
        """Note how many cores other programs keep busy."""
        # In a container, most of the machine's processors may be out of reach.
        cores = min(cores, self._most)
        self._load, before = cores, self._load_before
        change = abs(cores - before)
        if change < _LOAD_CHANGED or self._rests(strong=change >= _LOAD_CHANGED_MUCH):
            return
        self._load_before = cores
        self._losses.clear()
        # Sooner, never later: a load that changes all the time must not put the trials off.
        soon = {number: self._clock + self._first_pause(number) for number in self._due}
        self._due = {number: min(due, soon[number]) for number, due in self._due.items()}
        self._costs.clear()
        self._alarm(self._fewer() if cores > before else self._more(), 0)

    def _free(self) -> int:
        """Return the number of threads for which there are free cores."""
        return max(1, min(self._most, round(self._most - self._load)))

    def _fewer(self) -> list[int]:
        numbers = [self._free(), self.number - self._near, self.number // 2]
        if self.number <= 4:
            numbers.append(1)
        return [number for number in dict.fromkeys(numbers) if 1 <= number < self.number]

    def _more(self) -> list[int]:
        free = self._free()
        numbers = [free, *self._landmarks, 2 * self.number, self.number + self._near]
        # Without a free core, one more thread would have to share.
        return [number for number in dict.fromkeys(numbers) if self.number < number <= free]
