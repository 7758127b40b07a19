"""When a worker counts as stuck, and how soon the next one starts. Pure: no clock, no thread."""

from __future__ import annotations

_LATE = 2.0
"""If two looks are further apart than this many intervals, this process was stopped in between."""
_REPORTS = 2
_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_MEMORY_WITHIN = 600.0
"""If memory runs out twice within so many seconds, the model is not started again."""
_HEALTHY_AFTER = 60.0
"""Seconds that a worker must have lived for the next restart to be quick again."""


class Silence:
    """How long a worker has been silent, not counting time in which this process did not run.

    Ctrl-Z stops the server and its workers together, perhaps for hours. A look that comes much
    later than planned counts as if it had come in time, because this process was stopped.

    Args:
        every: planned seconds between two looks.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._last = 0.0
        self._silent = 0.0

    def heard(self, now: float) -> None:
        """Note that the worker has answered a ping, or was just started."""
        self._last = now
        self._silent = 0.0

    def look(self, now: float) -> float:
        """Return the seconds of silence. Call it at the planned interval, or a little later."""
        passed = now - self._last
        self._last = now
        self._silent += passed if passed <= _LATE * self._every else self._every
        return self._silent


class Stall:
    """Whether a worker hangs in a step.

    One report is not enough: when a worker continues after it was stopped, it first reports the
    time during which it was stopped as time of its step.

    Args:
        limit: most seconds that a step may take.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy_for = 0.0
        """Seconds since the current step began, as last reported."""
        self._over = 0

    def begin(self) -> None:
        """Note that another worker is started."""
        self.busy_for, self._over = 0.0, 0

    def reported(self, busy_for: float) -> None:
        """Note the worker's report that its step began ``busy_for`` seconds ago."""
        self.busy_for = busy_for
        self._over = self._over + 1 if busy_for > self.limit else 0

    @property
    def hangs(self) -> bool:
        """Whether two reports in a row are over the limit."""
        return self._over >= _REPORTS


class Restarts:
    """The pauses before the next worker is started."""

    def __init__(self) -> None:
        self._failures = 0

    @property
    def pause(self) -> float:
        """Seconds to wait now before the next worker is started."""
        return _PAUSES[min(self._failures, len(_PAUSES) - 1)]

    def ended(self, lived: float, computed: bool) -> None:
        """Note that a worker has ended, or could not be started.

        Args:
            lived: seconds from before its start to its end.
            computed: whether it may have died of a prompt that it computed, or could not be
                started.
        """
        if lived > _HEALTHY_AFTER:
            self._failures = 1
        elif computed:
            self._failures += 1
        else:
            # It was probably killed by another process, and the next request should not pay for
            # that. If it dies by itself whenever it is idle, half a second plus the time to load
            # the model is a sufficient pause. A worker that dies while loading is not restarted.
            self._failures = max(self._failures, 1)


class OutOfMemory:
    """How often a model's workers were killed for lack of memory."""

    def __init__(self) -> None:
        self._last: float | None = None

    def again(self, now: float) -> bool:
        """Note that a worker was killed; return whether another one was a short time ago."""
        last, self._last = self._last, now
        return last is not None and now - last <= _MEMORY_WITHIN
