"""The server's side of embeddings and ranking: hand inputs over, wait for their vectors."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.engine.client import EngineClient
from offgrid.engine.pending import POLL, ClientGone, Pending, error_of
from offgrid.engine.protocol import Accepted, Embed, Embedded, EmbeddingRequest, Event, Failed

_PLACES = 1
"""In the queue, however many inputs there are: they share batches with those of others, one of
each request in turn."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer: little-endian float32 for each input, in their order."""

    vectors: list[bytes]
    prompt_tokens: int


class Embedding(Pending):
    """One request in the worker's hands."""

    command: Embed

    def __init__(self, engine: EngineClient, key: str, command: Embed) -> None:
        super().__init__(command.id, key, command, _PLACES)
        self._engine = engine
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._vectors = [b""] * len(command.request.inputs)
        self._over = False

    @property
    def param(self) -> str | None:
        """The field of the request that holds the inputs."""
        params = self.command.request.params
        return params[0].partition("[")[0] if params else None

    def push(self, event: Event) -> None:
        """Take an event in."""
        self._events.put(event)

    def wait(self, alive: Callable[[], bool]) -> Vectors:
        """Return all vectors when the last one is there.

        Raises:
            RequestError: the request is refused or failed.
            ClientGone: ``alive`` said no.
        """
        prompt_tokens = 0
        while True:
            if not alive():
                raise ClientGone
            try:
                event = self._events.get(timeout=POLL)
            except queue.Empty:
                continue
            if isinstance(event, Failed):
                self._close()
                raise error_of(event)
            if isinstance(event, Accepted):
                prompt_tokens = event.prompt_tokens
            elif isinstance(event, Embedded):
                self._vectors[event.index] = event.vector
                if event.left == 0:
                    self._close()
                    return Vectors(self._vectors, prompt_tokens)

    def cancel(self) -> None:
        """Stop the work for it. Idempotent, harmless after the end."""
        if self._close():
            self._engine.send_cancel(self.id)

    def _close(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._engine.forget(self)
        return True


def embed(engine: EngineClient, request: EmbeddingRequest, alive: Callable[[], bool]) -> Vectors:
    """Return the vectors of a request's inputs, or their scores if it has a query.

    Args:
        engine: the model.
        request: at least one input.
        alive: asked now and then while waiting whether the client is still there.

    Raises:
        InvalidParameter, ContextLengthExceeded, RequestRefused: the request's fault.
        Overloaded, EngineFault, ClientGone: see :meth:`EngineClient.submit`.
    """
    key = engine.key_of((request.inputs, request.query), None)
    pending = engine.register(lambda id: Embedding(engine, key, Embed(id, request)), _PLACES, alive)
    try:
        engine.hand_over(pending)
        return pending.wait(alive)
    finally:
        pending.cancel()
