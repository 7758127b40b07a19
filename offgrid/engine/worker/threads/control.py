"""The number of threads for each kind of step. Pure: callers pass the measured times."""

from __future__ import annotations

from enum import Enum

from offgrid.engine.worker.threads.tuner import Tuner
from offgrid.engine.worker.threads.work import Work


class Kind(Enum):
    """What a step does. The best number of threads differs: long steps wait less often."""

    DECODE = "decode"
    """Only generating sequences."""
    PREFILL = "prefill"
    """Chunks of prompts, with or without generating sequences."""
    EMBED = "embed"
    """Inputs to be embedded."""


class Threads:
    """Says how many threads compute the next step.

    Args:
        fixed: the number if the settings give one; 0 to find it.
        start: the number at the beginning: one per physical core.
        most: largest number: one per logical processor.
        landmarks: further numbers that may be the best, such as that of the fast cores.

    Attributes:
        tried: whether :meth:`choose` has returned another number than the one in use.
    """

    def __init__(self, fixed: int, start: int, most: int, landmarks: tuple[int, ...] = ()) -> None:
        self.automatic = fixed == 0 and most > 1
        start = fixed or min(start, most)
        self._tuners = {kind: Tuner(start, max(start, most), landmarks) for kind in Kind}
        self._chosen = start
        self.tried = False

    def choose(self, kind: Kind, work: Work) -> int:
        """Return the number of threads for the next step."""
        tuner = self._tuners[kind]
        self._chosen = tuner.choose(work) if self.automatic else tuner.number
        self.tried = self._chosen != tuner.number
        return self._chosen

    def observe(self, kind: Kind, work: Work, seconds: float) -> None:
        """Learn from the step for which :meth:`choose` was called last.

        Args:
            kind: as for :meth:`choose`.
            work: as for :meth:`choose`.
            seconds: time that the step took.
        """
        if self.automatic:
            self._tuners[kind].observe(work, self._chosen, seconds)

    def neighbours_use(self, cores: float) -> None:
        """Note how many cores other programs keep busy."""
        for tuner in self._tuners.values():
            tuner.neighbours_use(cores)

    def in_use(self, kind: Kind) -> int:
        """Return the number in use, without trials."""
        return self._tuners[kind].number
