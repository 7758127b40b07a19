"""Ends a worker that is stuck: it answers no pings, or it hangs in a step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from offgrid.engine.client.patience import Silence, Stall
from offgrid.engine.client.readiness import Readiness
from offgrid.engine.protocol.commands import Ping
from offgrid.errors import EngineFault

log = logging.getLogger(__name__)

PING_EVERY = 1.0
"""Seconds between pings."""
_PONG_WITHIN = 15.0
_START_WITHIN = 60.0
"""Seconds until a new worker says something: importing llama.cpp from a slow disk takes a while."""


class Watchdog:
    """Watches the workers of one model, one after another.

    Args:
        readiness: has the current worker, and the lock.
        pinging: called with the number of each ping, just before it is sent.
        stopping: ends :meth:`run` when it is set.
        stall_timeout: most seconds that one step of the loop may take.
        clock: monotonic seconds.

    Attributes:
        start_within: seconds without an answer after which a new process counts as stuck.
        pong_within: the same for a process that has answered before. The thread that answers pings
            does not wait for llama.cpp, so this is no limit for a step.
        stall: tells whether a step takes too long.
        pings: number of the last ping.
        has_killed: whether it has killed the current worker.
    """

    def __init__(
        self,
        readiness: Readiness,
        pinging: Callable[[int], None],
        stopping: threading.Event,
        *,
        stall_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self.start_within = _START_WITHIN
        self.pong_within = _PONG_WITHIN
        self.stall = Stall(stall_timeout)
        self.pings = 0
        self.has_killed = False
        self._readiness = readiness
        self._pinging = pinging
        self._stopping = stopping
        self._clock = clock
        self._silence = Silence(PING_EVERY)
        self._spoken = False
        """Whether the current worker has said something."""

    def begin(self) -> None:
        """Watch a worker that was just started. Call it with the lock held."""
        self._spoken = self.has_killed = False
        self._silence.heard(self._clock())
        self.stall.begin()

    def spoken(self) -> None:
        """Note that the current worker has said something."""
        self._spoken = True

    def answered(self, busy_for: float) -> None:
        """Note that the current worker has answered a ping, ``busy_for`` seconds after its step
        began. Call it with the lock held."""
        self._silence.heard(self._clock())
        self.stall.reported(busy_for)

    def run(self) -> None:
        """Kill each worker that does not answer pings or whose step takes too long."""
        while not self._stopping.wait(PING_EVERY):
            with self._readiness.lock:
                process = self._readiness.process
                silent = self._silence.look(self._clock())
                limit = self.pong_within if self._spoken else self.start_within
                stuck = silent > limit or self.stall.hangs
            if process is None:
                continue
            if stuck:
                log.error(
                    "worker %d is stuck (silent for %.0f s, in its step for %.0f s): ended",
                    process.pid, silent, self.stall.busy_for,
                )  # fmt: skip
                self.has_killed = True
                process.kill()
                with self._readiness.lock:
                    self._silence.heard(self._clock())
                    self.stall.begin()
                continue
            self.pings += 1
            self._pinging(self.pings)
            self.ping(self.pings)

    def ping(self, number: int) -> None:
        """Send a ping to the current worker, unless its pipe is full."""
        process = self._readiness.process
        try:
            # If the worker is stopped, the pipe may be full and another writer may be blocked:
            # never wait for either.
            if process is not None:
                process.send(Ping(number), wait=False)
        except EngineFault:
            log.debug("ping %d: no worker", number)
