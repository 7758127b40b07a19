"""A question to a model's tokenizer, as the server waits for its answer."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING

from offgrid.engine.protocol import Event, Failed, Tokens

if TYPE_CHECKING:
    from offgrid.errors import RequestError

POLL = 0.1
"""Seconds between two looks at whether a waiting client is still there."""


class Lookup:
    """One question under way. It takes no place in the queue: the tokenizer has its own thread.

    Attributes:
        key: stands for the question, where it ends the worker.
        computing: whether a crash may be blamed on it; until the answer is there.
    """

    def __init__(self, id: int, key: str) -> None:
        self.id = id
        self.key = key
        self.computing = True
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def push(self, event: Event) -> None:
        """Called by the engine client's threads."""
        self.computing = False
        self._events.put(event)

    def wait(
        self, alive: Callable[[], bool], to_error: Callable[[Failed], RequestError]
    ) -> Tokens | None:
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
                raise to_error(event)
            if isinstance(event, Tokens):
                return event
