"""The events of a step, until they are pushed."""

from __future__ import annotations

from collections.abc import Callable

from offgrid.engine.protocol import Event


class Outbox:
    """Collects events in order.

    Args:
        emit: receives all that were collected, at every :meth:`push` with any.

    Attributes:
        add: appends one event.
    """

    def __init__(self, emit: Callable[[tuple[Event, ...]], None]) -> None:
        self._emit = emit
        self._events: list[Event] = []
        # The list's own method: it is called for every token.
        self.add: Callable[[Event], None] = self._events.append

    def push(self) -> None:
        """Hand over what was collected, if there is anything."""
        if self._events:
            events = tuple(self._events)
            self._events.clear()
            self._emit(events)
