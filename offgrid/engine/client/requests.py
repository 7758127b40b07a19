"""The requests that a model's workers have, or will have: registered, sent, retried, failed.

When a worker dies, the requests that it computed end with an error; those that only waited are
handed to the next one. A request is registered for the worker that is ready at that moment, and
from then on whoever deals with that worker's death deals with the request, too.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from offgrid.engine.client.blame import Blame
from offgrid.engine.client.pending import Hooks, Pending, State, proves_harmless
from offgrid.engine.client.places import Places
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.supervisor import Listener
from offgrid.engine.protocol import (
    MAX_FRAME,
    Accepted,
    Cancel,
    Event,
    Failed,
    FrameTooLarge,
    Started,
    Tokenising,
    Tokens,
)
from offgrid.errors import (
    ContextLengthExceeded,
    EngineFault,
    ModelLoadFailed,
    RequestError,
    RequestRefused,
)

log = logging.getLogger(__name__)

_DIED = "The worker process of this model died while computing this request."
_DIED_TWICE = "The worker process of this model died twice while this request waited; try again."

P = TypeVar("P", bound=Pending)


class Requests(Listener):
    """All requests of one model, by id.

    Args:
        readiness: the present worker, and the lock that guards the requests.
        places: what requests take and give back.
        blame: remembers what workers died of.
        name: what messages call the model.

    Attributes:
        hooks: what a request is made with.
    """

    def __init__(
        self, readiness: Readiness, places: Places, blame: Blame, *, name: str = ""
    ) -> None:
        self.hooks = Hooks(
            readiness.lock,
            lambda pending: self.forget(pending),
            lambda id: self.send_cancel(id),
        )
        self._readiness = readiness
        self._lock = readiness.lock
        self._places = places
        self._blame = blame
        self._name = name
        self._pending: dict[int, Pending] = {}
        self._last_id = 0
        self._last_ping = 0
        self._alone: int | None = None
        """The one request that is computed of those that may have ended a worker."""
        self._held_back: deque[Pending] = deque()
        """Others of those: they wait for its prompt to be computed."""
        self._unsent: list[Pending] = []
        """Requests for which no thread could be started that sends them."""
        # These two are the supervisor's thread's alone, until the end of what it has just read.
        self._touched: dict[int, Pending] = {}
        """Requests whose listeners are to be called."""
        self._assigned: list[Pending] = []
        """Requests that are to be sent to a worker that has just become ready."""

    def pending(self) -> list[Pending]:
        """Return all requests that are not over."""
        with self._lock:
            return [*self._pending.values()]

    @property
    def unsent(self) -> int:
        """Requests that wait for the system to start a thread which sends them."""
        return len(self._unsent)

    def computing(self) -> set[str]:
        """Return keys of what the worker tokenises or prefills now, and might die of."""
        with self._lock:
            return self._blame.computing()

    # --- from the client to the worker --------------------------------------------------------

    def key_of(self, prompt: object, param: str | None) -> str:
        """Return what a prompt is remembered by, should it end the worker.

        Raises:
            RequestRefused: it did so twice.
        """
        key = hashlib.sha256(msgspec.msgpack.encode(prompt)).hexdigest()
        with self._lock:
            refused = self._blame.refused(key)
        if refused:
            raise RequestRefused(
                "This prompt crashed the worker process twice and is refused for ten minutes.",
                param,
            )
        return key

    def register(self, make: Callable[[int], P], n: int, alive: Callable[[], bool]) -> P:
        """Take ``n`` places in the queue, wait for the model, and enter a request under a new id.

        Raises:
            ModelLoadFailed, Overloaded, ClientGone: see :meth:`Readiness.wait`.
        """
        if n:
            self._places.reserve(n)
        try:
            return self._register(make, alive)
        except BaseException:
            self._places.release(n)
            raise

    def _register(self, make: Callable[[int], P], alive: Callable[[], bool]) -> P:
        readiness = self._readiness
        while True:
            readiness.wait(alive)
            with self._lock:
                if readiness.closed:
                    raise readiness.farewell()
                worker = readiness.process
                if not readiness.ready or worker is None:  # it died just now
                    continue
                self._last_id += 1
                pending = make(self._last_id)
                # From here on it is in the hands of this very worker, and when that dies, of those
                # who deal with its death: whoever writes to it need not know of that.
                pending.assign(worker)
                self._pending[pending.id] = pending
                return pending

    def hand_over(self, pending: Pending) -> None:
        """Give a registered request to its worker; one that has died is dealt with elsewhere.

        Raises:
            ContextLengthExceeded: it is too large for a frame.
        """
        with self._lock:
            process = pending.worker
            # Its worker has died, and the next one gets it; or has got it from another thread.
            if process is None or pending.state != State.ASSIGNED or not self._may_go(pending):
                return
            pending.advance(State.SENT)
        try:
            process.send(pending.command)
        except FrameTooLarge:
            raise ContextLengthExceeded(
                f"The request to the worker process exceeds {MAX_FRAME >> 20} MiB; shorten the "
                "prompt.",
                pending.param,
            ) from None
        except EngineFault:
            log.debug("request %d: its worker has ended", pending.id)

    def send_cancel(self, id: int) -> None:
        """Tell the worker to stop a request; a worker that is gone has stopped it already."""
        process = self._readiness.process
        try:
            if process is not None:
                process.send(Cancel(id))
        except EngineFault:
            log.debug("cancel of request %d: no worker", id)

    def forget(self, pending: Pending) -> None:
        """Called by a request when it is over."""
        with self._lock:
            self._pending.pop(pending.id, None)
            if pending.state >= State.ANSWERING:
                self._blame.over(pending.id)
            else:
                self._blame.left(pending.id, self._last_ping)
            self._next_alone(pending.id)
        self._places.release(pending.n)

    # --- suspects, one by one -----------------------------------------------------------------

    def _may_go(self, pending: Pending) -> bool:
        """Whether a request may be sent now. Those that may have ended a worker go one by one, so
        that no two of them are computed when the next one dies. Called with the lock held."""
        if self._blame.suspected(pending.key):
            if self._alone not in (None, pending.id):
                self._held_back.append(pending)
                return False
            self._alone = pending.id
        self._blame.enter(pending.id, pending.key)
        return True

    def _next_alone(self, id: int) -> None:
        """A request has been computed, or is over: is it the turn of one that was held back?
        Called with the lock held."""
        if id != self._alone:
            return
        self._alone = None
        if self._held_back:
            held_back, self._held_back = [*self._held_back], deque()
            self._send_later(held_back)

    # --- sent by other threads ----------------------------------------------------------------

    def _send_later(self, requests: list[Pending]) -> None:
        """Send requests from a thread that may wait: a pipe may be full. While the system starts
        none, they wait: the watchdog tries again."""
        sender = threading.Thread(
            target=self._send_all, args=(requests,), name="engine-retry", daemon=True
        )
        try:
            sender.start()
        except RuntimeError as ex:
            log.error("%d requests of %s wait to be sent: %s", len(requests), self._name, ex)
            with self._lock:
                self._unsent += requests

    def _send_all(self, requests: list[Pending]) -> None:
        for pending in requests:
            if pending.id not in self._pending:
                continue
            try:
                self.hand_over(pending)
            except ContextLengthExceeded as ex:  # it has never been written to a worker before
                _fail(pending, ex)
            if pending.id not in self._pending:  # its client left meanwhile
                self.send_cancel(pending.id)

    def pinging(self, number: int) -> None:
        """Remember the ping; send what could not be sent before."""
        self._last_ping = number
        with self._lock:
            unsent, self._unsent = self._unsent, []
        if unsent:
            self._send_later(unsent)

    # --- from the worker to the clients -------------------------------------------------------

    def ready(self, process: WorkerProcess) -> None:
        """Assign the requests that the last worker left to the next one; :meth:`tell` sends them,
        for a thread is better started without the lock."""
        self._assigned = [p for p in self.pending() if p.state == State.WAITING]
        for pending in self._assigned:
            pending.assign(process)

    def take(self, events: Sequence[Event]) -> None:
        """Push what a step has said to the requests."""
        for event in events:
            pending = self._deliver(event)
            if pending is not None:
                self._touched[pending.id] = pending

    def tell(self) -> None:
        """Call the listeners of requests that something has come for, once; send what is to be
        sent."""
        touched, self._touched = self._touched, {}
        for pending in touched.values():
            _tell(pending)
        assigned, self._assigned = self._assigned, []
        if assigned:
            self._send_later(assigned)

    def pong(self, number: int, busy_for: float) -> None:
        """Requests that clients left before this ping are out of the worker."""
        self._blame.pong(number, busy_for)

    def _deliver(self, event: Event) -> Pending | None:
        """Push an event to its request; return that one, None if nobody need be told."""
        pending = self._pending.get(event.id)
        # A stream's next token changes nothing there.
        if pending is None or pending.state < State.ANSWERING:
            self._note(event)
        if pending is None:  # cancelled meanwhile
            return None
        if isinstance(event, Tokenising):
            return None
        if isinstance(event, Started):
            pending.advance(State.STARTED)
            return None
        pending.push(event)
        return pending

    def _note(self, event: Event) -> None:
        """Follow what the worker computes, in case that it dies of it."""
        with self._lock:
            if isinstance(event, Tokenising):
                self._blame.tokenising(event.id, event.lane)
            elif isinstance(event, Accepted):
                self._blame.tokenised(event.id)
            elif isinstance(event, Started):
                if event.computing:
                    self._blame.prefilling(event.id)
            elif isinstance(event, (Tokens, Failed)):
                self._blame.over(event.id, harmless=True)
                self._next_alone(event.id)
            elif proves_harmless(event):
                self._blame.harmless(event.id)
                self._next_alone(event.id)

    # --- ends ---------------------------------------------------------------------------------

    def died(self) -> bool:
        """Fail what the worker computed, keep the rest for the next one."""
        with self._lock:
            suspects = self._blame.crashed()
            self._alone = None
            self._held_back.clear()
            under_way = [p for p in self._pending.values() if not p.ended]
            over = [p for p in under_way if not self._try_again(p, suspects)]
            again = len(under_way) - len(over)
        if again:
            log.warning("%d requests of %s are passed to its next worker", again, self._name)
        for pending in over:
            waited = pending.state < State.STARTED and pending.key not in suspects
            _fail(pending, EngineFault(_DIED_TWICE if waited else _DIED))
        return bool(suspects)

    def _try_again(self, pending: Pending, suspects: set[str]) -> bool:
        """Prepare a request for the next worker if it may be tried again.

        That is once, when nothing has come of it yet. Of several that were computed all are tried
        again, one after the other (:meth:`_may_go`); one that was computed alone is guilty.
        """
        guilty = pending.key in suspects and len(suspects) == 1
        if guilty or pending.state >= State.SCORED or self._blame.refused(pending.key):
            return False
        if pending.retried and pending.state >= State.SENT:
            return False
        pending.again()
        return True

    def lost(self) -> None:
        """Fail what the worker had been given."""
        for pending in self.pending():
            if pending.state != State.WAITING:
                _fail(pending, EngineFault(_DIED))

    def given_up(self, failure: LoadFailure) -> None:
        """Fail all requests: there is no model."""
        self.fail_all(ModelLoadFailed(failure.message))

    def fail_all(self, error: RequestError) -> None:
        """End all requests with an error."""
        for pending in self.pending():
            _fail(pending, error)


def _fail(pending: Pending, error: RequestError) -> None:
    """End a request with an error, unless it has ended."""
    if pending.ended:
        return
    name = type(error).__name__
    pending.push(Failed(pending.id, name, error.message, error.param, error.code))
    _tell(pending)


def _tell(pending: Pending) -> None:
    listener = pending.listener
    if listener is not None:
        listener()
