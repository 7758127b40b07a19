"""Collects the events of a step until they are pushed."""

from __future__ import annotations

from collections.abc import Callable

from offgrid.engine.protocol import EngineEvent


class Outbox:
    """Collects events in order.

    Args:
        emit: called by :meth:`push` with all collected events, if there are any.

    Attributes:
        add: appends one event.
    """

    def __init__(self, emit: Callable[[tuple[EngineEvent, ...]], None]) -> None:
        self._emit = emit
        self._events: list[EngineEvent] = []
        # The list's own method, because it is called for every token.
        self.add: Callable[[EngineEvent], None] = self._events.append

    def push(self) -> None:
        """Emit the collected events, if there are any."""
        if self._events:
            events = tuple(self._events)
            self._events.clear()
            self._emit(events)
