"""A request in a worker's hands, as the server sees it."""

from __future__ import annotations

import dataclasses
import queue
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from offgrid import errors
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.protocol import (
    Accepted,
    Delta,
    Embed,
    Embedded,
    Event,
    Failed,
    LookUp,
    Submit,
    Tokens,
)
from offgrid.errors import EngineFault, Overloaded, RequestError

POLL = 0.1
"""Interval, in seconds, at which a waiting request checks that its client is still connected."""

E = TypeVar("E", bound=Event)


class ClientGone(Exception):
    """The client left while its request waited."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a request tells the engine client.

    Attributes:
        close: the request is over: its places and its id are free.
        cancel: the worker is to stop the request of this id.
    """

    close: Callable[[Pending], None]
    cancel: Callable[[int], None]


class Pending(ABC):
    """A request in the worker's hands: its events, until it is over.

    Attributes:
        id: its number, also in the worker.
        key: stands for what the worker computes of it, should that end the worker.
        command: what the worker is told.
        n: places in the queue that it holds.
        worker: the process that it was given to; None while it waits for the next one.
        sent: whether it was written to that worker, or is just being written.
        proven: whether all was computed of it that may end a worker.
        retried: whether it was taken from a worker that died and given to the next one.
        delivered: whether something came of it that a second worker might say differently.
        started: whether the worker has begun to compute it.
        listener: called by the client's reader thread after what it has pushed.
    """

    def __init__(
        self, id: int, key: str, command: Submit | Embed | LookUp, n: int, hooks: Hooks
    ) -> None:
        self.id = id
        self.key = key
        self.command = command
        self.n = n
        self.worker: WorkerProcess | None = None
        self.sent = False
        self.proven = False
        self.retried = False
        self.delivered = False
        self.started = False
        self.listener: Callable[[], None] | None = None
        self._hooks = hooks
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closed = False
        # Reentrant: a stream that nobody closed is cancelled when it is collected as garbage, which
        # may be at any line of any thread.
        self._closing = threading.RLock()

    @property
    @abstractmethod
    def param(self) -> str | None:
        """The field of the request that errors about its size name."""

    def push(self, event: Event) -> None:
        """Take an event in; called by the client's reader thread, and by the thread that ends all
        requests."""
        self._events.put(event)

    def cancel(self) -> None:
        """Stop the work for this request. Idempotent, harmless after the end."""
        if self._close():
            self._hooks.cancel(self.id)

    def again(self) -> None:
        """Its worker died before anything of it was computed: prepare it for the next one."""
        self.worker = None
        self.sent = False
        self.retried = True
        self.started = False

    def _wait(self, kind: type[E], alive: Callable[[], bool]) -> E:
        """Return the next event of a kind; others are dropped.

        Raises:
            RequestError: the request is refused or failed.
            ClientGone: ``alive`` said no; the request is cancelled.
        """
        while True:
            try:
                event = self._events.get(timeout=POLL)
            except queue.Empty:
                if not alive():
                    self.cancel()
                    raise ClientGone from None
                continue
            if isinstance(event, Failed):
                self._close()
                raise error_of(event)
            if isinstance(event, kind):
                return event

    def _close(self) -> bool:
        """Give the places in the queue back; return whether they were still held."""
        with self._closing:
            if self._closed:
                return False
            self._closed = True
        self._hooks.close(self)
        return True


class Generation(Pending):
    """One accepted request. Use :meth:`next` until :attr:`finished`, or :meth:`cancel` it.

    Attributes:
        prompt_tokens: tokens of the prompt.
        prompt_text: text of a prompt given as token ids, if the request asks for it.
        seed: the seed in force.
        ended: whether everything has come that ever will.
    """

    command: Submit

    def __init__(
        self,
        key: str,
        command: Submit,
        places: int,
        hooks: Hooks,
        ended: Callable[[], None],
        queue_timeout: float = 0.0,
    ) -> None:
        super().__init__(command.id, key, command, places, hooks)
        self._queue_timeout = queue_timeout
        self._open_choices = command.request.n
        self._unsaid = command.request.n
        self._tell_end = ended
        self._accepted_at = time.monotonic()
        self._accepted: Accepted | None = None
        self.ended = False
        self.failed = False
        self.prompt_tokens = 0
        self.prompt_text = ""
        self.seed = 0

    @property
    def param(self) -> str | None:
        """The field of the request that holds the prompt."""
        return self.command.request.prompt_param

    @property
    def finished(self) -> bool:
        """Whether every choice has sent its finish_reason."""
        return self._open_choices == 0

    @property
    def overdue(self) -> bool:
        """Whether it has waited for a slot for longer than the engine allows."""
        if not self._queue_timeout or self.started:
            return False
        return time.monotonic() - self._accepted_at > self._queue_timeout

    def push(self, event: Event) -> None:
        """Take an event in."""
        self.failed = self.failed or isinstance(event, Failed)
        if isinstance(event, Accepted):
            self._accepted = event
        super().push(event)
        if isinstance(event, Delta):
            self.delivered = True
            self._unsaid -= event.finish_reason is not None
        if self.failed or not self._unsaid:
            self.ended = True
            self._tell_end()

    def again(self) -> None:
        """As :meth:`Pending.again`; the seed that the client was told stays in force."""
        super().again()
        if self._accepted is not None:
            request = self.command.request
            sampling = dataclasses.replace(request.sampling, seed=self._accepted.seed)
            request = msgspec.structs.replace(request, sampling=sampling)
            self.command = Submit(self.id, request)

    def next(self, timeout: float) -> list[Delta] | None:
        """Return the deltas that came since the last call.

        Args:
            timeout: seconds to wait for the first one; 0 not to wait.

        Returns:
            At least one delta, in order; None when nothing came in time.

        Raises:
            RequestError: the request is over without having finished.
        """
        deltas: list[Delta] = []
        try:
            event = self._events.get(timeout > 0, timeout)
            while True:
                if isinstance(event, Failed):
                    self._close()
                    if not deltas:
                        raise error_of(event)
                    # What came before the failure is delivered first.
                    self._events.put(event)
                    return deltas
                if isinstance(event, Delta):
                    deltas.append(event)
                    self._open_choices -= event.finish_reason is not None
                event = self._events.get_nowait()
        except queue.Empty:
            pass
        if self.finished:
            self._close()
        return deltas or None

    def wait_accepted(self, alive: Callable[[], bool]) -> None:
        """Wait for the worker's verdict on the prompt.

        Raises:
            RequestError: the request is refused or failed.
            ClientGone: ``alive`` said no; the request is cancelled.
        """
        event = self._wait(Accepted, alive)
        self.prompt_tokens = event.prompt_tokens
        self.seed = event.seed
        self.prompt_text = event.prompt_text


class Lookup(Pending):
    """A question to the tokenizer. It takes no place in the queue: the tokenizer has its own
    thread."""

    command: LookUp

    def __init__(self, key: str, command: LookUp, hooks: Hooks) -> None:
        super().__init__(command.id, key, command, 0, hooks)

    @property
    def param(self) -> str:
        """The field of the request that errors name."""
        return self.command.query.param

    def wait(self, alive: Callable[[], bool]) -> Tokens:
        """Return the answer.

        Raises:
            RequestError: the question is refused, or the worker died.
            ClientGone: ``alive`` said no; the request is cancelled.
        """
        tokens = self._wait(Tokens, alive)
        self._close()
        return tokens


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer: little-endian float32 for each input, in their order."""

    vectors: list[bytes]
    prompt_tokens: int

    def values(self, index: int) -> list[float]:
        """Return one of them as numbers."""
        vector = self.vectors[index]
        return [*struct.unpack(f"<{len(vector) // 4}f", vector)]


class Embedding(Pending):
    """Inputs that become vectors or scores.

    They hold one place in the queue, however many there are: they share batches with those of other
    requests, one of each request in turn.
    """

    PLACES = 1
    command: Embed

    def __init__(self, key: str, command: Embed, hooks: Hooks) -> None:
        super().__init__(command.id, key, command, self.PLACES, hooks)

    @property
    def param(self) -> str | None:
        """The field of the request that holds the inputs."""
        params = self.command.request.params
        return params[0].partition("[")[0] if params else None

    def wait(self, alive: Callable[[], bool]) -> Vectors:
        """Return all vectors when the last one is there.

        Raises:
            RequestError: the request is refused or failed.
            ClientGone: ``alive`` said no; the request is cancelled.
        """
        accepted = self._wait(Accepted, alive)
        vectors = [b""] * len(self.command.request.inputs)
        left = len(vectors)
        while left:
            if not alive():  # asked each time, as vectors may come without a pause
                self.cancel()
                raise ClientGone
            event = self._wait(Embedded, alive)
            vectors[event.index] = event.vector
            left = event.left
        self._close()
        return Vectors(vectors, accepted.prompt_tokens)


def proves_harmless(event: Event) -> bool:
    """Whether all was computed that depends on the client's text alone."""
    if isinstance(event, Delta):
        return not event.prompt
    return isinstance(event, Embedded) and event.left == 0


def error_of(event: Failed) -> RequestError:
    """Make the exception that the worker named."""
    cls = getattr(errors, event.error, EngineFault)
    if not (isinstance(cls, type) and issubclass(cls, RequestError)):
        cls = EngineFault
    if cls is Overloaded:
        return Overloaded(event.message, code=event.code)
    return cls(event.message, event.param, code=event.code)
