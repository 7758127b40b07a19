"""Collects the events of a step until they are pushed.

Every frame wakes a thread of the server, and with it the client, and takes a core from llama.cpp
for a moment. If steps are so quick that readers cannot see their tokens one by one, several steps
share a frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from offgrid.engine.protocol.events import Delta, EngineEvent


class Outbox:
    """Collects events in order.

    Args:
        emit: called by :meth:`push` with all collected events, if there are any.
        hold: most seconds that a token of a running answer may wait for later ones.
        clock: counts seconds.

    Attributes:
        add: appends one event.
    """

    def __init__(
        self,
        emit: Callable[[tuple[EngineEvent, ...]], None],
        hold: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._hold = hold
        self._clock = clock
        self._events: list[EngineEvent] = []
        self._held = 0
        """How many of the events may wait."""
        self._pushed = -hold
        # The list's own method, because it is called for every token.
        self.add: Callable[[EngineEvent], None] = self._events.append

    def push(self) -> None:
        """Emit the collected events, if there are any."""
        if self._events:
            events = tuple(self._events)
            self._events.clear()
            self._held = 0
            self._pushed = self._clock()
            self._emit(events)

    def push_new(self) -> None:
        """Emit the collected events, unless all of them were held back before."""
        if len(self._events) > self._held:
            self.push()

    def push_or_hold(self, step: float) -> None:
        """Emit the collected events, or hold them back until the next step ends.

        Args:
            step: seconds that the next step will take. If it ends too late for what is held back,
                nothing is.
        """
        if self._clock() + step > self._pushed + self._hold or any(
            map(_is_urgent, self._events[self._held :])
        ):
            self.push()
        else:
            self._held = len(self._events)


def _is_urgent(event: EngineEvent) -> bool:
    """Whether an event is anything but a token in the middle of an answer."""
    return (
        not isinstance(event, Delta)
        or event.finish_reason is not None
        or event.completion_tokens <= 1
    )
