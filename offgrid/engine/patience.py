"""When a worker counts as stopped, and how soon the next one is started: told what time it is."""

from __future__ import annotations

_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_HEALTHY_AFTER = 60.0
"""Seconds that a worker must have lived for the next restart to be soon again."""


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
