"""The clock and the neighbours of the loop, for the pure controller."""

from __future__ import annotations

import time

import psutil

from offgrid.engine import processors
from offgrid.engine.worker.threads.control import Kind, Threads
from offgrid.engine.worker.threads.neighbours import Neighbours
from offgrid.engine.worker.threads.work import Work

_PAUSE = 1.0
"""Seconds without a step after which the neighbours are measured anew."""


class LoopThreads:
    """Times the steps of the loop, and says how many threads compute each of them.

    Args:
        fixed: the number if the settings give one; 0 to find it.
    """

    def __init__(self, fixed: int) -> None:
        cores = processors.cores()
        landmarks = (cores.fast,) if cores.fast else ()
        self._threads = Threads(fixed, cores.start, cores.most, landmarks)
        spare = max(0, (psutil.cpu_count() or cores.most) - cores.most)
        self._neighbours = Neighbours(spare) if self._threads.automatic else None
        self._step: tuple[Kind, Work, float] | None = None
        self._ended = time.perf_counter()

    def begin(self, kind: Kind, tokens: int, context: int) -> int:
        """Return the number of threads for the step that begins now.

        Args:
            kind: what it does.
            tokens: tokens of its batch.
            context: most tokens that one of them attends to.
        """
        if self._neighbours is None:
            return self._threads.in_use(kind)
        if time.perf_counter() - self._ended > _PAUSE:
            self._neighbours.restart()
        if (cores := self._neighbours.measure()) is not None:
            self._threads.neighbours_use(cores)
        work = Work(tokens, context)
        number = self._threads.choose(kind, work)
        self._step = kind, work, time.perf_counter()
        return number

    def end(self) -> bool:
        """Learn from the step that began last and has just ended.

        Returns:
            Whether it used the number in use; otherwise it was part of a trial.
        """
        if self._step is None:
            return True
        kind, work, began = self._step
        self._step = None
        self._ended = time.perf_counter()
        self._threads.observe(kind, work, self._ended - began)
        return not self._threads.tried

    @property
    def in_use(self) -> tuple[int, int]:
        """The numbers for decode and for prefill. Any thread may ask."""
        return self._threads.in_use(Kind.DECODE), self._threads.in_use(Kind.PREFILL)
