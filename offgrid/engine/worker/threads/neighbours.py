"""Measures how busy other programs keep the processors."""

from __future__ import annotations

import time

import psutil

_EVERY = 0.5
"""Seconds between two measurements. One takes less than 0.1 ms on a small machine."""


class Neighbours:
    """The processor time that other programs use.

    The counters are those of the whole machine. If this process may not use all processors, its
    neighbours are taken to use the others first. They may do otherwise, but the number of threads
    is found by measuring steps, and a neighbour is only a reason to measure.

    Args:
        spare: processors of the machine that this process may not use.
    """

    def __init__(self, spare: int = 0) -> None:
        self._spare = spare
        self._when, self._busy = 0.0, 0.0
        self.restart()

    def restart(self) -> None:
        """Begin anew after a pause, in which other programs may have done something else."""
        self._when, self._busy = time.monotonic(), _busy_seconds()

    def measure(self) -> float | None:
        """Return how many of the cores that this process may use other programs have kept busy
        since the last measurement; None if that was less than half a second ago."""
        now = time.monotonic()
        passed = now - self._when
        if passed < _EVERY:
            return None
        busy = _busy_seconds()
        cores = (busy - self._busy) / passed
        self._when, self._busy = now, busy
        return max(0.0, cores - self._spare)


def _busy_seconds() -> float:
    """Return the processor seconds that all programs but this one have used. Steal, the time that
    the host gave to other machines, counts too."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts the time of guests in that of users.
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - counted_twice - idle - time.process_time())
