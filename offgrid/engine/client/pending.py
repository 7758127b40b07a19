"""A request in a worker's hands, as the server sees it.

::

    WAITING --> ASSIGNED --> SENT --> STARTED --> SCORED --> ANSWERING --> COMPLETE
       ^            |          |         |
       +------------+----------+---------+   its worker died, and it is tried again

    each of them but COMPLETE --> FAILED

========= ========================================= ========================================
State     Reached when                              If the worker dies then
========= ========================================= ========================================
WAITING   it is made; its worker died               (it has no worker)
ASSIGNED  it gets a worker that is ready; it may    WAITING
          be held back there as a suspect
SENT      it is about to be written to the pipe     WAITING; FAILED if that happened before,
                                                    or if nothing else was tokenised
STARTED   it has a slot: its prompt is computed,    WAITING; FAILED if that happened before,
          or waits for a prefix of another one      or if nothing else was prefilled
SCORED    logprobs of its prompt have come          FAILED: another worker might say them
                                                    differently
ANSWERING all is computed that depends on the       FAILED, and not to blame for it
          client's text alone
COMPLETE  its last event has come                   (it has all it needs)
FAILED    an error has come                         (it is over)
========= ========================================= ========================================

Each change is made with the lock of :class:`~offgrid.engine.client.readiness.Readiness` held.
Lookups and embeddings skip the states that they have no events for. The state is what the worker
has done. What the client's thread has done is apart from it: whether it has read all that came
(:attr:`Generation.finished`), and whether it has closed the request, which frees its places.
"""

from __future__ import annotations

import dataclasses
import enum
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


class State(enum.IntEnum):
    """How far a request is; see the table at the top of this module."""

    WAITING = 0
    ASSIGNED = 1
    SENT = 2
    STARTED = 3
    SCORED = 4
    ANSWERING = 5
    COMPLETE = 6
    FAILED = 7


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a request shares with those who keep it.

    Attributes:
        lock: guards its state. Reentrant: see
            :class:`~offgrid.engine.client.readiness.Readiness`.
        close: the request is over: its places and its id are free.
        cancel: the worker is to stop the request of this id.
    """

    lock: threading.RLock
    close: Callable[[Pending], None]
    cancel: Callable[[int], None]


class Pending(ABC):
    """A request in the worker's hands: its events, until it is over.

    Attributes:
        id: its number, also in the worker.
        key: stands for what the worker computes of it, should that end the worker.
        command: what the worker is told.
        n: places in the queue that it holds.
        state: how far it is.
        worker: the process that it was assigned to; None while it waits for one.
        retried: whether it was taken from a worker that died.
        listener: called by the supervisor's thread after what it has pushed.
    """

    def __init__(
        self, id: int, key: str, command: Submit | Embed | LookUp, n: int, hooks: Hooks
    ) -> None:
        self.id = id
        self.key = key
        self.command = command
        self.n = n
        self.state = State.WAITING
        self.worker: WorkerProcess | None = None
        self.retried = False
        self.listener: Callable[[], None] | None = None
        self._hooks = hooks
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closed = False

    @property
    @abstractmethod
    def param(self) -> str | None:
        """The field of the request that errors about its size name."""

    @property
    def ended(self) -> bool:
        """Whether everything has come that ever will."""
        return self.state >= State.COMPLETE

    def assign(self, worker: WorkerProcess) -> None:
        """A worker that is ready gets it: its death is that of the request, too."""
        self.worker = worker
        self.advance(State.ASSIGNED)

    def advance(self, state: State) -> None:
        """Go on to a later state. An earlier one changes nothing, and nothing changes the end."""
        if self.state >= state:  # as for most tokens of a stream: they need no lock
            return
        with self._hooks.lock:
            if self.state < min(state, State.COMPLETE):
                self.state = state

    def push(self, event: Event) -> None:
        """Take an event in; called by the supervisor's thread, and by those that end requests."""
        # Before anybody reads it: the request may be closed at once then, and what closes it asks
        # whether it may have been the worker's death.
        self.advance(self._reached(event))
        self._events.put(event)
        # After it is there to be read: whoever finds the request at its end reads until then.
        if isinstance(event, Failed):
            self.advance(State.FAILED)
        elif self._is_last(event):
            self.advance(State.COMPLETE)

    def _reached(self, event: Event) -> State:
        """Return the state that an event shows; WAITING if it shows none."""
        return State.ANSWERING if proves_harmless(event) else State.WAITING

    @abstractmethod
    def _is_last(self, event: Event) -> bool:
        """Whether this event, which is no failure, completes the request. Called once for each."""

    def cancel(self) -> None:
        """Stop the work for this request. Idempotent, harmless after the end."""
        if self._close():
            self._hooks.cancel(self.id)

    def again(self) -> None:
        """Its worker died before anything of it was delivered: prepare it for the next one. Called
        with the lock held."""
        self.worker = None
        self.state = State.WAITING
        self.retried = True

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
        with self._hooks.lock:
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
        self._unfinished = command.request.n
        """Choices whose last delta has not come."""
        self._unread = command.request.n
        """Choices whose last delta has not been read."""
        self._tell_end = ended
        self._accepted_at = time.monotonic()
        self._accepted: Accepted | None = None
        self.prompt_tokens = 0
        self.prompt_text = ""
        self.seed = 0

    @property
    def param(self) -> str | None:
        """The field of the request that holds the prompt."""
        return self.command.request.prompt_param

    @property
    def finished(self) -> bool:
        """Whether the finish_reason of every choice has been read."""
        return self._unread == 0

    @property
    def failed(self) -> bool:
        """Whether it has been told an error."""
        return self.state is State.FAILED

    @property
    def overdue(self) -> bool:
        """Whether it has waited for a slot for longer than the engine allows."""
        if not self._queue_timeout or self.state >= State.STARTED:
            return False
        return time.monotonic() - self._accepted_at > self._queue_timeout

    def push(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Accepted):
            self._accepted = event
        super().push(event)
        if self.ended:
            self._tell_end()

    def _reached(self, event: Event) -> State:
        if isinstance(event, Delta) and event.prompt:
            return State.SCORED
        return super()._reached(event)

    def _is_last(self, event: Event) -> bool:
        if isinstance(event, Delta):
            self._unfinished -= event.finish_reason is not None
        return not self._unfinished

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
                    self._unread -= event.finish_reason is not None
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

    def _is_last(self, event: Event) -> bool:
        return isinstance(event, Tokens)

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

    def _is_last(self, event: Event) -> bool:
        return isinstance(event, Embedded) and event.left == 0

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
