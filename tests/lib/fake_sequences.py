"""Sequences without a model, for tests of the scheduler."""

from __future__ import annotations

import itertools

import numpy as np

from offgrid.engine.protocol.requests import NORMAL
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scheduler.slots import Placement
from offgrid.engine.worker.sequence import TRANSITIONS, Status
from offgrid.engine.worker.spans import BatchSpan

PROMPT = list(range(1, 41))


class Fake:
    """A sequence without a model: ``length`` unique tokens unless ``tokens`` are given."""

    _next = itertools.count(1)

    def __init__(
        self,
        request_id: int,
        length: int,
        computed: int = 0,
        tokens: list[int] | None = None,
        *,
        owner: str = "",
        priority: int = NORMAL,
        partition: str = "",
    ) -> None:
        self.request_id = request_id
        self.choice = 0
        self.owner = owner
        self.priority = priority
        self.partition = partition
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

    @property
    def lasting(self) -> int:
        return self.length

    @property
    def dispensable(self) -> bool:
        return False

    def stop(self) -> None:
        raise AssertionError("no other sequence does its work")

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


def start(scheduler: Scheduler[Fake], *sequences: Fake) -> list[Placement[Fake]]:
    scheduler.submit(sequences)
    return scheduler.admit()
