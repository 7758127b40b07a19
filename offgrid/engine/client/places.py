"""The places in the queue of one model: how many of its sequences may run or wait."""

from __future__ import annotations

from offgrid.engine.client.readiness import Readiness
from offgrid.errors import InvalidParameter, Overloaded


class Places:
    """Counts the places that are taken.

    Args:
        slots: sequences that can run at once.
        queue_size: sequences that may wait in addition.
        readiness: tells whether the model takes requests; its lock guards the count.
    """

    def __init__(self, slots: int, queue_size: int, readiness: Readiness) -> None:
        self.capacity = slots + queue_size
        self._slots = slots
        self._readiness = readiness
        self._taken = 0

    @property
    def taken(self) -> int:
        """Number of places taken: by sequences that run, wait, or are about to come."""
        return self._taken

    def hold(self, n: int, times: int, *, more: bool = False) -> int:
        """Take places for several future requests; see :meth:`EngineClient.hold
        <offgrid.engine.client.client.EngineClient.hold>`."""
        self.check(n)
        first = 0 if more else 1
        with self._readiness.lock:
            self.reserve(n * first)
            spare = min(self._slots, self.capacity - self._slots)
            others = max(0, min(times - first, (self.capacity - spare - self._taken) // n))
            self._taken += n * others
        return first + others

    def reserve(self, n: int) -> None:
        """Take ``n`` places; with 0 only check that the model takes requests.

        Raises:
            Overloaded: fewer than ``n`` are free, the model was unloaded, or the server is
                stopping.
        """
        with self._readiness.lock:
            self._readiness.check_open()
            if n and self._taken + n > self.capacity:
                raise Overloaded("All slots are busy and the queue is full.", code="server_busy")
            self._taken += n

    def release(self, n: int) -> None:
        """Release ``n`` places."""
        with self._readiness.changed:
            self._taken -= n
            self._readiness.changed.notify_all()

    def check(self, n: int) -> None:
        """Refuse a request of more sequences than the model has places.

        Raises:
            InvalidParameter: ``n`` is larger than the capacity.
        """
        if n > self.capacity:
            raise InvalidParameter(
                f"n must be at most {self.capacity} on this server (slots plus queue).", "n"
            )
