"""The thread that looks at the machine, saves the totals, and does what else is due."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.stats.collected import Stats
from offgrid.stats.machine import Machine, Process, look
from offgrid.stats.series import STEP, Counters, Gauges, Series

log = logging.getLogger(__name__)

LOOK_EVERY = STEP
"""Seconds between two looks at the machine."""
_SOON = 1.0
"""Seconds until the first look at a new worker."""
SAVE_EVERY = 60.0
"""Seconds after which totals are saved: at most so many are lost if the server is killed."""
_JOIN_SECONDS = 2.0


class StatsKeeper:
    """Looks at the machine and saves the totals from time to time.

    Args:
        stats: the statistics.
        pool: the loaded models.
        places: name -> a folder or file whose disk is of interest.
        due: called after each look with False, and at the end with True, for others that have
            something to do from time to time.

    Attributes:
        machine: the latest look; None before the first.
        series: how the load has developed.
    """

    def __init__(
        self,
        stats: Stats,
        pool: EnginePool,
        places: Mapping[str, Path],
        due: Callable[[bool], None] = lambda at_end: None,
    ) -> None:
        self.machine: Machine | None = None
        self.series = Series()
        self._computed = _Computed()
        self._stats = stats
        self._pool = pool
        self._places = places
        self._due = due
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)

    def start(self) -> None:
        """Start the thread. Without it, the server serves, and some figures are missing."""
        try:
            self._thread.start()
        except RuntimeError as ex:
            log.error("figures of the machine are missing, and totals are saved at the end: %s", ex)

    def close(self) -> None:
        """End the thread and save the totals. Idempotent."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)  # a disk that does not answer must not delay the end
        self._due(True)
        self._stats.save(wait=not self._thread.is_alive())

    def _run(self) -> None:
        self._stats.load()
        saved = time.monotonic()
        while True:
            try:
                self.look()
                self._due(False)
                if time.monotonic() - saved >= SAVE_EVERY:
                    saved = time.monotonic()
                    self._stats.save()
            except Exception:
                log.exception("the statistics of the machine failed")
            if self._ending.wait(_SOON if self._new_worker else LOOK_EVERY):
                return

    @property
    def _new_worker(self) -> bool:
        """Whether a model has a worker that no look has seen."""
        seen = () if self.machine is None else self.machine.workers
        return any(client.name not in seen for client in self._pool.snapshot())

    def look(self) -> None:
        """Look at the machine, and note how it develops."""
        clients = self._pool.snapshot()
        pids = {client.name: client.pid for client in clients}
        known = {name: pid for name, pid in pids.items() if pid is not None}
        self.machine = look(known, self._places, self.machine)
        self._computed.look(clients)
        counters = Counters(self._computed.prompt, self._computed.completion, *self._stats.posts())
        self.series.add(counters, _gauges(self.machine, clients))


class _Computed:
    """Tokens that all workers have computed, also those that have ended. A worker says once a
    second how many it was, so those of its last moments are missing.

    Attributes:
        prompt: tokens of prompts.
        completion: tokens of answers.
    """

    def __init__(self) -> None:
        self.prompt = 0
        self.completion = 0
        self._known: dict[str, tuple[int | None, int, int]] = {}
        """Model -> process id of its worker, and what that had computed at the last look."""

    def look(self, clients: Iterable[EngineClient]) -> None:
        """Add what was computed since the last look."""
        known: dict[str, tuple[int | None, int, int]] = {}
        for client in clients:
            pid, beat = client.pid, client.latest
            if beat is None:
                continue
            now = beat.figures
            before = self._known.get(client.name, (pid, 0, 0))
            _, prompt, completion = before if before[0] == pid else (pid, 0, 0)
            self.prompt += max(0, now.prefilled - prompt)
            self.completion += max(0, now.generated - completion)
            known[client.name] = pid, now.prefilled, now.generated
        self._known = known


def _gauges(machine: Machine, clients: Iterable[EngineClient]) -> Gauges:
    beats = [beat for client in clients if (beat := client.latest) is not None]
    heat = machine.temperature
    return Gauges(
        sum(beat.running for beat in beats),
        sum(beat.waiting for beat in beats),
        sum(client.load.parallel for client in clients),
        machine.available,
        math.nan if machine.server is None else _memory(machine.server),
        sum(map(_memory, machine.workers.values())),
        math.nan if machine.load is None else machine.load,
        math.nan if heat is None else heat.celsius,
    )


def _memory(process: Process) -> int:
    """Return the bytes of a process; shared pages count as the system divides them."""
    return process.rss if process.pss is None else process.pss
