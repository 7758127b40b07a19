"""Which prompt is at fault when a worker dies? Pure: no process, no thread.

A worker's death is a strike against the prompts that it was tokenising or prefilling at that
moment, and against no others. Requests that waited are innocent, and so are streams, because their
prompts have been computed. If several prompts were being computed, it is unknown which one is
guilty: a prompt is refused when it is the only one that two crashes have in common.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

REFUSED_FOR = 600.0
"""Seconds after which a crash is forgotten."""
_MAX_CRASHES = 64


@dataclass(slots=True)
class _Flight:
    """The worker's progress with one request."""

    key: str
    lane: int | None = None
    """The thread of the worker that tokenises it now."""
    prefilling: bool = False
    left: tuple[int, float] | None = None
    """Number of the last ping before its client left, and the time when the client left."""

    @property
    def computing(self) -> bool:
        return self.lane is not None or self.prefilling


class Blame:
    """Tracks which prompts the worker computes, and remembers those computed when it died.

    Not thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flights: dict[int, _Flight] = {}
        self._crashes: deque[tuple[float, set[str]]] = deque(maxlen=_MAX_CRASHES)

    # --- progress of the worker ---------------------------------------------------------------

    def enter(self, id: int, key: str) -> None:
        """A request is sent to the worker; ``key`` identifies its prompt."""
        self._flights[id] = _Flight(key)

    def tokenising(self, id: int, lane: int) -> None:
        """A thread of the worker begins to tokenise a request, so it has finished the last one."""
        for flight in self._flights.values():
            if flight.lane == lane:
                flight.lane = None
        if (found := self._flights.get(id)) is not None:
            found.lane = lane

    def tokenised(self, id: int) -> None:
        """The request is tokenised."""
        if (flight := self._flights.get(id)) is not None:
            flight.lane = None

    def prefilling(self, id: int) -> None:
        """The request's prompt is prefilled from the next step on."""
        if (flight := self._flights.get(id)) is not None:
            flight.prefilling = True

    def harmless(self, id: int) -> None:
        """Everything that depends only on the client's text is computed, and the worker lives."""
        flight = self._flights.get(id)
        if flight is None or not flight.computing:
            return
        flight.lane, flight.prefilling = None, False
        self._acquit(flight.key)

    def over(self, id: int, *, harmless: bool = False) -> None:
        """The worker is done with the request; ``harmless`` says that its prompt did no harm."""
        flight = self._flights.pop(id, None)
        if flight is not None and harmless:
            self._acquit(flight.key)

    def left(self, id: int, ping: int) -> None:
        """The request's client left. The worker may compute the prompt until :meth:`pong` shows
        that it has handled the cancel."""
        if (flight := self._flights.get(id)) is not None:
            flight.left = (ping, self._clock())

    def pong(self, number: int, busy_for: float) -> None:
        """The worker has answered a ping, ``busy_for`` seconds after its current step began. Drop
        the requests whose clients left before that ping and before that step, except those that
        are still being tokenised."""
        now = self._clock()
        for id, flight in [*self._flights.items()]:
            if flight.left is None or flight.lane is not None:
                continue
            ping, since = flight.left
            if number > ping and busy_for < now - since:
                del self._flights[id]

    def computing(self) -> set[str]:
        """Return the keys of prompts that are tokenised or prefilled at this moment."""
        return {flight.key for flight in self._flights.values() if flight.computing}

    # --- crashes ------------------------------------------------------------------------------

    def crashed(self, innocent: bool = False) -> set[str]:
        """The worker died. Return the keys of prompts that it may have died of: none if all are
        ``innocent``."""
        suspects = set() if innocent else self.computing()
        self._flights.clear()
        if suspects:
            self._crashes.append((self._clock(), set(suspects)))
        return suspects

    def suspected(self, key: str) -> bool:
        """Return whether a prompt was computed in a crash and not proven harmless since."""
        return any(key in suspects for suspects in self._recent())

    def refused(self, key: str) -> bool:
        """Return whether two crashes have this prompt, and no other one, in common."""
        crashes = [suspects for suspects in self._recent() if key in suspects]
        return any(one & other == {key} for i, one in enumerate(crashes) for other in crashes[:i])

    def _recent(self) -> list[set[str]]:
        since = self._clock() - REFUSED_FOR
        while self._crashes and self._crashes[0][0] <= since:
            self._crashes.popleft()
        return [suspects for _, suspects in self._crashes]

    def _acquit(self, key: str) -> None:
        for _, suspects in self._crashes:
            suspects.discard(key)
