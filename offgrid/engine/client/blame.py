"""Whose fault is it when a worker dies? Pure: no process, no thread.

A worker that dies is one strike against what it was tokenising or prefilling at that moment, and
against nothing else: requests that waited are innocent, and so are streams, for their prompts have
been computed. When several requests were computed, none is known to be guilty: a prompt is refused
when two crashes have it, and nothing but it, in common.
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
    """What a worker does for one request."""

    key: str
    lane: int | None = None
    """The thread that tokenises it now."""
    prefilling: bool = False
    left: tuple[int, float] | None = None
    """Number of the last ping before its client left, and when that was."""

    @property
    def computing(self) -> bool:
        return self.lane is not None or self.prefilling


class Blame:
    """Follows what the worker computes, and remembers what it computed when it died.

    Not for several threads at once.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flights: dict[int, _Flight] = {}
        self._crashes: deque[tuple[float, set[str]]] = deque(maxlen=_MAX_CRASHES)

    # --- what the worker does -----------------------------------------------------------------

    def enter(self, id: int, key: str) -> None:
        """A request goes to the worker; ``key`` stands for what is computed of it."""
        self._flights[id] = _Flight(key)

    def tokenising(self, id: int, lane: int) -> None:
        """A thread begins with a request, and so is through with the one before."""
        for flight in self._flights.values():
            if flight.lane == lane:
                flight.lane = None
        if (found := self._flights.get(id)) is not None:
            found.lane = lane

    def tokenised(self, id: int) -> None:
        """Its text has become tokens."""
        if (flight := self._flights.get(id)) is not None:
            flight.lane = None

    def prefilling(self, id: int) -> None:
        """Its prompt is computed from the next step on."""
        if (flight := self._flights.get(id)) is not None:
            flight.prefilling = True

    def harmless(self, id: int) -> None:
        """All was computed that depends on the client's text alone, and the worker lives."""
        flight = self._flights.get(id)
        if flight is None or not flight.computing:
            return
        flight.lane, flight.prefilling = None, False
        self._acquit(flight.key)

    def over(self, id: int, *, harmless: bool = False) -> None:
        """The worker has ended it; ``harmless`` where all of it was computed."""
        flight = self._flights.pop(id, None)
        if flight is not None and harmless:
            self._acquit(flight.key)

    def left(self, id: int, ping: int) -> None:
        """Its client left. The worker may still be at it until it says that it heard of that."""
        if (flight := self._flights.get(id)) is not None:
            flight.left = (ping, self._clock())

    def pong(self, number: int, busy_for: float) -> None:
        """The worker answers a ping, ``busy_for`` seconds into its present step."""
        now = self._clock()
        for id, flight in [*self._flights.items()]:
            if flight.left is None or flight.lane is not None:
                continue
            ping, since = flight.left
            if number > ping and busy_for < now - since:
                del self._flights[id]

    def computing(self) -> set[str]:
        """Keys of what is tokenised or prefilled at this moment."""
        return {flight.key for flight in self._flights.values() if flight.computing}

    # --- what it died of ----------------------------------------------------------------------

    def crashed(self) -> set[str]:
        """The worker died. Return the keys of what it may have died of."""
        suspects = self.computing()
        self._flights.clear()
        if suspects:
            self._crashes.append((self._clock(), set(suspects)))
        return suspects

    def suspected(self, key: str) -> bool:
        """Whether it was computed in a crash, and has not been proven harmless since."""
        return any(key in suspects for suspects in self._recent())

    def refused(self, key: str) -> bool:
        """Whether two crashes have it, and nothing else, in common."""
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
