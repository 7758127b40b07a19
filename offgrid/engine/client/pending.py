"""A request that waits for a worker or was sent to one, as the server sees it.

::

    WAITING --> ASSIGNED --> SENT --> STARTED --> SCORED --> ANSWERING --> COMPLETE
       ^            |          |         |
       +------------+----------+---------+   its worker died, and it is retried

    every state except COMPLETE --> FAILED

========= ========================================= ========================================
State     Reached when                              If the worker dies in this state
========= ========================================= ========================================
WAITING   it is created; its worker died            (it has no worker)
ASSIGNED  it gets a worker that is ready; it may    WAITING
          be held back there as a suspect
SENT      it is about to be written to the pipe     WAITING; FAILED if it was retried before,
                                                    or if it is the only suspect
STARTED   it has a slot: its prompt is prefilled,   WAITING; FAILED if it was retried before,
          or it is parked                           or if it is the only suspect
SCORED    logprobs of its prompt have come          FAILED: another worker might compute
                                                    different ones
ANSWERING everything is computed that depends       FAILED, but it is no suspect
          only on the client's text
COMPLETE  its last event has come                   (nothing is missing)
FAILED    an error has come                         (it has ended)
========= ========================================= ========================================

A request whose prompt has become refused (:mod:`~offgrid.engine.client.blame`) is not retried in
any state. Each change is made with the lock of
:class:`~offgrid.engine.client.readiness.Readiness` held. Lookups and embeddings skip the states for
which they have no events. The state describes only the worker's progress. The progress of the
client's thread is separate: whether it has read all events (:attr:`Generation.finished`), and
whether it has closed the request, which releases its places.
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
from offgrid.engine.protocol.commands import Embed, LookUp, Submit
from offgrid.engine.protocol.events import (
    Accepted,
    Delta,
    Embedded,
    EngineEvent,
    Failed,
    Queued,
    TokenResult,
)
from offgrid.errors import EngineFault, Overloaded, RequestError
from offgrid.record import Record, current

POLL = 0.1
"""Interval, in seconds, at which a waiting request checks that its client is still connected."""

E = TypeVar("E", bound=EngineEvent)


class ClientGone(Exception):
    """The client disconnected while its request waited."""


class State(enum.IntEnum):
    """The progress of a request; see the table at the top of this module."""

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
    """What a request gets from :class:`~offgrid.engine.client.requests.Requests`.

    Attributes:
        lock: guards its state. Reentrant: see
            :class:`~offgrid.engine.client.readiness.Readiness`.
        close: forgets the request and releases its places.
        cancel: tells the worker to cancel the request with this id.
        end: tells the worker to end a choice, given the id and the choice's index.
    """

    lock: threading.RLock
    close: Callable[[Pending], None]
    cancel: Callable[[int], None]
    end: Callable[[int, int], None]


class Pending(ABC):
    """A request that waits for a worker or was sent to one, with its events.

    Attributes:
        id: its number, also in the worker.
        key: identifies its prompt, which is remembered by it if it kills the worker.
        command: the command for the worker.
        n: places in the queue that it holds.
        state: its progress.
        worker: the process to which it was assigned; None while it waits for one.
        retried: whether it was assigned to a worker that died.
        listener: called after events were pushed, by the thread that pushed them.
        moments: when each state was reached last, in seconds of ``time.monotonic``; 0 for states
            that were not reached.
        error: the error with which it failed.
        record: the record of the HTTP request to which it belongs; None outside one.
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
        self.moments = [time.monotonic(), *[0.0] * (len(State) - 1)]
        self.error: RequestError | None = None
        self.record: Record | None = current()
        self._hooks = hooks
        self._events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._closed = False

    @property
    @abstractmethod
    def owner(self) -> str:
        """The caller."""

    @property
    @abstractmethod
    def param(self) -> str | None:
        """The request field that errors about the request's size name."""

    @property
    def ended(self) -> bool:
        """Whether its last event or an error has come."""
        return self.state >= State.COMPLETE

    def assign(self, worker: WorkerProcess) -> None:
        """Assign the request to a worker that is ready. If the worker dies, the request is retried
        or fails."""
        self.worker = worker
        self.advance(State.ASSIGNED)

    def advance(self, state: State) -> None:
        """Move to a later state. An earlier state changes nothing, and an ended request keeps its
        state."""
        if self.state >= state:  # most tokens of a stream: they need no lock
            return
        with self._hooks.lock:
            if self.state < min(state, State.COMPLETE):
                self.state = state
                self.moments[state] = time.monotonic()

    def push(self, event: EngineEvent) -> None:
        """Add an event. Called by the supervisor's thread, and by threads that fail requests."""
        if isinstance(event, Failed):
            self.error = error_of(event)
        # Set the state before the event can be read: its reader may close the request at once, and
        # closing checks the state to decide whether the request remains a suspect.
        self.advance(self._reached(event))
        self._events.put(event)
        # Set the end only after the event can be read: a thread that sees that the request has
        # ended expects to find its last event.
        if isinstance(event, Failed):
            self.advance(State.FAILED)
        elif self._is_last(event):
            self.advance(State.COMPLETE)

    def _reached(self, event: EngineEvent) -> State:
        """Return the state that an event proves; WAITING if it proves none."""
        return State.ANSWERING if proves_harmless(event) else State.WAITING

    @abstractmethod
    def _is_last(self, event: EngineEvent) -> bool:
        """Return whether this event, which is not a failure, completes the request. Called once
        for each event."""

    def cancel(self) -> None:
        """Cancel the request. Idempotent, harmless after the end."""
        if self._close():
            self._hooks.cancel(self.id)

    def again(self) -> None:
        """Prepare the request for the next worker, because its worker died before any part of the
        answer came. Called with the lock held."""
        self.worker = None
        self.state = State.WAITING
        self.retried = True

    def _wait(self, kind: type[E], alive: Callable[[], bool]) -> E:
        """Return the next event of a kind; other events are dropped.

        Raises:
            RequestError: the request was refused or failed.
            ClientGone: ``alive`` returned False; the request is cancelled.
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
        """Close the request, which releases its places; return False if it was closed before."""
        with self._hooks.lock:
            if self._closed:
                return False
            self._closed = True
        self._hooks.close(self)
        return True


class Generation(Pending):
    """A generation request. Call :meth:`next` until :attr:`finished`, or :meth:`cancel` it.

    Attributes:
        prompt_tokens: number of tokens of the prompt.
        prompt_text: text of a prompt given as token ids, or of an infill, if the request asks for
            it.
        cut: whether a part of an infill was left out.
        seed: the seed that is used: the request's, or the one that was drawn.
        latest: choice -> its latest delta.
        queued: where it is in the queue or how far its prompt is, as last reported; None until
            that was reported, if it ever is.
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
        self._generated = [0] * command.request.n
        """Tokens of each choice that have come."""
        self._tell_end = ended
        self._accepted_at = time.monotonic()
        self._accepted: Accepted | None = None
        self.latest: dict[int, Delta] = {}
        self.prompt_tokens = 0
        self.prompt_text = ""
        self.cut = False
        self.seed = 0
        self.queued: Queued | None = None

    @property
    def owner(self) -> str:
        """The caller."""
        return self.command.request.owner

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
        """Whether an error has come."""
        return self.state is State.FAILED

    @property
    def answering(self) -> bool:
        """Whether a token of the answer has come."""
        return self.state >= State.ANSWERING

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices that have come, whether or not they have been read."""
        return sum(self._generated)

    @property
    def overdue(self) -> bool:
        """Whether it has waited for a slot for longer than ``queue_timeout``."""
        if not self._queue_timeout or self.state >= State.STARTED:
            return False
        return time.monotonic() - self._accepted_at > self._queue_timeout

    def push(self, event: EngineEvent) -> None:
        """Add an event, and report the end after the last one."""
        if isinstance(event, Accepted):
            self._accepted = event
        super().push(event)
        if self.ended:
            self._tell_end()

    def _reached(self, event: EngineEvent) -> State:
        if isinstance(event, Delta) and event.prompt:
            return State.SCORED
        return super()._reached(event)

    def _is_last(self, event: EngineEvent) -> bool:
        if isinstance(event, Delta):
            self.latest[event.choice] = event
            self._unfinished -= event.finish_reason is not None
            if event.completion_tokens:
                self._generated[event.choice] = event.completion_tokens
        return not self._unfinished

    def again(self) -> None:
        """Do the same as :meth:`Pending.again`, and keep the seed that the client was told. A
        request that had a slot has waited for it in time, and may wait as long once more."""
        if self.state >= State.STARTED:
            self._accepted_at = time.monotonic()
        super().again()
        self.latest.clear()
        if self._accepted is not None:
            request = self.command.request
            sampling = dataclasses.replace(request.sampling, seed=self._accepted.seed)
            request = msgspec.structs.replace(request, sampling=sampling)
            self.command = Submit(self.id, request)

    def next(self, timeout: float) -> list[Delta] | None:
        """Return the deltas that came since the last call.

        Args:
            timeout: seconds to wait for the first delta; with 0 it does not wait.

        Returns:
            At least one delta, in order; None if none came in time.

        Raises:
            RequestError: the request failed.
        """
        deltas: list[Delta] = []
        try:
            event = self._events.get(timeout > 0, timeout)
            while True:
                if isinstance(event, Failed):
                    self._close()
                    if not deltas:
                        raise error_of(event)
                    # Return the deltas that came before the failure first.
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

    def end(self, choice: int) -> None:
        """Let the worker end one choice; its last delta follows. Never waits. Harmless after its
        end."""
        self._hooks.end(self.id, choice)

    def wait_accepted(self, alive: Callable[[], bool]) -> None:
        """Wait until the worker accepts the prompt.

        Raises:
            RequestError: the request was refused or failed.
            ClientGone: ``alive`` returned False; the request is cancelled.
        """
        event = self._wait(Accepted, alive)
        self.prompt_tokens = event.prompt_tokens
        self.seed = event.seed
        self.prompt_text = event.prompt_text
        self.cut = event.cut


class Lookup(Pending):
    """A token query. It takes no place in the queue, because the tokeniser has its own thread."""

    command: LookUp

    def __init__(self, key: str, command: LookUp, hooks: Hooks) -> None:
        super().__init__(command.id, key, command, 0, hooks)

    @property
    def owner(self) -> str:
        """The caller."""
        return self.command.query.owner

    @property
    def param(self) -> str:
        """The request field that errors name."""
        return self.command.query.param

    def _is_last(self, event: EngineEvent) -> bool:
        return isinstance(event, TokenResult)

    def wait(self, alive: Callable[[], bool]) -> TokenResult:
        """Return the tokens.

        Raises:
            RequestError: the query was refused, or the worker died.
            ClientGone: ``alive`` returned False; the request is cancelled.
        """
        tokens = self._wait(TokenResult, alive)
        self._close()
        return tokens


@dataclass(frozen=True, slots=True)
class Vectors:
    """The result: little-endian float32 values for each input, in the order of the inputs."""

    vectors: list[bytes]
    prompt_tokens: int

    def values(self, index: int) -> list[float]:
        """Return the vector of one input as numbers."""
        vector = self.vectors[index]
        return [*struct.unpack(f"<{len(vector) // 4}f", vector)]


class Embedding(Pending):
    """A request whose inputs become vectors or scores.

    It holds one place in the queue, however many inputs it has: requests share batches, with one
    input of each request in turn.
    """

    PLACES = 1
    command: Embed

    def __init__(self, key: str, command: Embed, hooks: Hooks) -> None:
        super().__init__(command.id, key, command, self.PLACES, hooks)
        self.prompt_tokens = 0

    @property
    def owner(self) -> str:
        """The caller."""
        return self.command.request.owner

    @property
    def param(self) -> str | None:
        """The request field that holds the inputs."""
        params = self.command.request.params
        return params[0].partition("[")[0] if params else None

    def _is_last(self, event: EngineEvent) -> bool:
        return isinstance(event, Embedded) and event.left == 0

    def wait(self, alive: Callable[[], bool], accepted: Callable[[int], None]) -> Vectors:
        """Return all vectors once the last one has come.

        Args:
            alive: whether the client is still connected.
            accepted: called with the tokens of all inputs once they are tokenised; may raise.

        Raises:
            RequestError: the request was refused or failed.
            ClientGone: ``alive`` returned False; the request is cancelled.
        """
        self.prompt_tokens = self._wait(Accepted, alive).prompt_tokens
        accepted(self.prompt_tokens)
        vectors = [b""] * len(self.command.request.inputs)
        left = len(vectors)
        while left:
            if not alive():  # _wait asks only when no event comes, but vectors may come steadily
                self.cancel()
                raise ClientGone
            event = self._wait(Embedded, alive)
            vectors[event.index] = event.vector
            left = event.left
        self._close()
        return Vectors(vectors, self.prompt_tokens)


def proves_harmless(event: EngineEvent) -> bool:
    """Return whether an event proves that everything was computed that depends only on the client's
    text."""
    if isinstance(event, Delta):
        return not event.prompt and event.progress is None
    return isinstance(event, Embedded) and event.left == 0


def error_of(event: Failed) -> RequestError:
    """Return the exception that a failure names."""
    cls = getattr(errors, event.error, EngineFault)
    if not (isinstance(cls, type) and issubclass(cls, RequestError)):
        cls = EngineFault
    if cls is Overloaded:
        return Overloaded(event.message, code=event.code)
    return cls(event.message, event.param, code=event.code)
