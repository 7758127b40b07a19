"""A question to a model's tokenizer, as the server waits for its answer."""

from __future__ import annotations

import queue
from collections.abc import Callable

from offgrid.engine.pending import POLL, Pending, error_of
from offgrid.engine.protocol import Event, Failed, LookUp, Tokens


class Lookup(Pending):
    """One question under way. It takes no place in the queue: the tokenizer has its own thread."""

    command: LookUp

    def __init__(self, key: str, command: LookUp) -> None:
        super().__init__(command.id, key, command, 0)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    @property
    def param(self) -> str:
        """The field of the request that errors name."""
        return self.command.query.param

    def push(self, event: Event) -> None:
        """Take an event in."""
        self._events.put(event)

    def wait(self, alive: Callable[[], bool]) -> Tokens | None:
        """Return the answer; None when ``alive`` said that the client is gone.

        Raises:
            RequestError: the question is refused, or the worker died.
        """
        while True:
            try:
                event = self._events.get(timeout=POLL)
            except queue.Empty:
                if not alive():
                    return None
                continue
            if isinstance(event, Failed):
                raise error_of(event)
            if isinstance(event, Tokens):
                return event
