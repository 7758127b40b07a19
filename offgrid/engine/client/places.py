"""The places in the queue of one model: how many of its sequences may run or wait, and whose."""

from __future__ import annotations

from offgrid.engine.client.readiness import Readiness
from offgrid.engine.client.shares import Shares
from offgrid.engine.client.turnover import Turnover
from offgrid.errors import InvalidParameter, Overloaded


class Places:
    """Counts the places that are taken.

    Args:
        slots: sequences that can run at once.
        queue_size: sequences that may wait in addition. Other callers than those that fill the
            queue find as many places again, if they hold fewer than their share.
        readiness: tells whether the model takes requests; its lock guards the count.
        turnover: estimates when a place becomes free.
    """

    def __init__(
        self,
        slots: int,
        queue_size: int,
        readiness: Readiness,
        turnover: Turnover | None = None,
    ) -> None:
        self.capacity = slots + queue_size
        self._slots = slots
        self._readiness = readiness
        self._turnover = turnover
        self._shares = Shares(self.capacity, self.capacity)

    @property
    def taken(self) -> int:
        """Number of places taken: by sequences that run, wait, or are about to come."""
        return self._shares.taken

    def hold(self, n: int, times: int, *, more: bool = False, owner: str = "") -> int:
        """Take places for several future requests; see :meth:`EngineClient.hold
        <offgrid.engine.client.client.EngineClient.hold>`."""
        self.check(n)
        first = 0 if more else 1
        with self._readiness.lock:
            self.reserve(n * first, owner)
            spare = min(self._slots, self.capacity - self._slots)
            others = max(0, min(times - first, (self.capacity - spare - self.taken) // n))
            self._shares.add(owner, n * others)
        return first + others

    def reserve(self, n: int, owner: str = "") -> None:
        """Take ``n`` places for a caller; with 0 only check that the model takes requests.

        Raises:
            Overloaded: there are none for this caller, the model was unloaded, or the server is
                stopping.
        """
        with self._readiness.lock:
            self._readiness.check_open()
            missing = self._shares.missing(owner, n) if n else 0
            turnover = self._turnover
            if missing:
                raise Overloaded(
                    "All slots are busy and the queue is full.",
                    code="server_busy",
                    retry_after=1 if turnover is None else turnover.retry_after(missing),
                )
            self._shares.add(owner, n)

    def release(self, n: int, owner: str = "") -> None:
        """Release ``n`` places of a caller."""
        with self._readiness.changed:
            if n:
                self._shares.give_back(owner, n)
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
