"""When a worker counts as stopped, and how soon the next one is started: told what time it is."""

from __future__ import annotations

_LATE = 2.0
"""Times the meant distance of two looks: beyond it, this process did not run."""
_REPORTS = 2
_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_HEALTHY_AFTER = 60.0
"""Seconds that a worker must have lived for the next restart to be soon again."""


class Silence:
    """How long a worker has said nothing, in time in which this process could have heard it.

    Ctrl-Z stops the server and its workers together, for hours perhaps. A look that comes much
    later than it should counts as one that came in time: this process did not run in between.

    Args:
        every: seconds between two looks, as they are meant.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._last = 0.0
        self._silent = 0.0

    def heard(self, now: float) -> None:
        """The worker has said something, or has just been started."""
        self._last = now
        self._silent = 0.0

    def look(self, now: float) -> float:
        """Return the seconds of silence. To be called every so many seconds, or a bit later."""
        passed = now - self._last
        self._last = now
        self._silent += passed if passed <= _LATE * self._every else self._every
        return self._silent


class Stall:
    """Whether a worker hangs in a step.

    One report is not enough: a worker that was stopped for some time says, as soon as it goes on,
    that its step takes for as long as that.

    Args:
        limit: seconds that a step may take.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy_for = 0.0
        """Seconds, as reported last."""
        self._over = 0

    def begin(self) -> None:
        """Another worker is started."""
        self.busy_for, self._over = 0.0, 0

    def reported(self, busy_for: float) -> None:
        """The worker says that it is ``busy_for`` seconds into its step."""
        self.busy_for = busy_for
        self._over = self._over + 1 if busy_for > self.limit else 0

    @property
    def hangs(self) -> bool:
        """Whether two reports in a row are over the limit."""
        return self._over >= _REPORTS


class Restarts:
    """The pauses before a worker is started again."""

    def __init__(self) -> None:
        self._failures = 0

    @property
    def pause(self) -> float:
        """Seconds to wait now before the next worker is started."""
        return _PAUSES[min(self._failures, len(_PAUSES) - 1)]

    def ended(self, lived: float, computed: bool) -> None:
        """A worker has ended, or could not be started.

        Args:
            lived: seconds from before its start to its end.
            computed: whether it may have died of what it computed, or could not be started.
        """
        if lived > _HEALTHY_AFTER:
            self._failures = 1
        elif computed:
            self._failures += 1
        else:
            # It was killed from outside, and whoever asks next need not pay for that. Should it
            # die by itself whenever it is idle, half a second beside the time of a load between two
            # starts is pause enough: one that dies before it is ready is not started again at all.
            self._failures = max(self._failures, 1)
