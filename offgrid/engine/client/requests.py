"""The requests of one model: registered, sent to its worker, retried by the next one, failed.

When a worker dies, a request fails if part of its answer has come, if it alone may have caused the
crash, or if it was sent and had already been retried. All others go to the next worker. A request
is registered for the worker that is ready at that moment; from then on the code that handles that
worker's death also handles the request.
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
from offgrid.engine.client.outcomes import outcome_of
from offgrid.engine.client.pending import (
    Generation,
    Hooks,
    Pending,
    State,
    proves_harmless,
)  # fmt: skip
from offgrid.engine.client.places import Places
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.supervisor import Listener
from offgrid.engine.client.turnover import Turnover
from offgrid.engine.protocol.commands import Cancel
from offgrid.engine.protocol.events import (
    Accepted,
    EngineEvent,
    Failed,
    Queued,
    Started,
    Tokenising,
    TokenResult,
)
from offgrid.engine.protocol.frames import MAX_FRAME, FrameTooLarge
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
        readiness: the current worker, and the lock that guards the requests.
        places: the places in the queue that requests take and release.
        blame: remembers which prompts workers may have died of.
        turnover: learns how long requests hold their slots.
        name: the model's name in messages.

    Attributes:
        hooks: passed to each new request.
    """

    def __init__(
        self,
        readiness: Readiness,
        places: Places,
        blame: Blame,
        turnover: Turnover,
        *,
        name: str = "",
    ) -> None:
        self.hooks = Hooks(
            readiness.lock,
            lambda pending: self.forget(pending),
            lambda id: self.send_cancel(id),
            self.send_end,
        )
        self._readiness = readiness
        self._lock = readiness.lock
        self._places = places
        self._blame = blame
        self._turnover = turnover
        self._name = name
        self._pending: dict[int, Pending] = {}
        self._last_id = 0
        self._last_ping = 0
        self._alone: int | None = None
        """The suspect that is computed now: a request that may have killed a worker."""
        self._held_back: deque[Pending] = deque()
        """Other suspects, which wait until its prompt is computed."""
        self._unsent: list[Pending] = []
        """Requests that wait because no thread could be started to send them."""
        # Only the supervisor's thread uses these two, while it handles the reports that it has
        # just read.
        self._touched: dict[int, Pending] = {}
        """Requests whose listeners must be called."""
        self._assigned: list[Pending] = []
        """Requests that must be sent to a worker that has just become ready."""

    def pending(self) -> list[Pending]:
        """Return all requests that have not ended."""
        with self._lock:
            return [*self._pending.values()]

    @property
    def unsent(self) -> int:
        """Number of requests that wait because no thread could be started to send them."""
        return len(self._unsent)

    def computing(self) -> set[str]:
        """Return the keys of prompts that the worker tokenises or prefills now."""
        with self._lock:
            return self._blame.computing()

    # --- from the client to the worker --------------------------------------------------------

    def key_of(self, prompt: object, param: str | None) -> str:
        """Return the key by which a prompt is remembered if it kills the worker.

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

    def register(
        self, make: Callable[[int], P], n: int, alive: Callable[[], bool], owner: str
    ) -> P:
        """Take ``n`` places in the queue for a caller, wait for the model, and enter a request
        under a new id.

        Raises:
            ModelLoadFailed, Overloaded, ClientGone: see :meth:`Readiness.wait`.
        """
        if n:
            self._places.reserve(n, owner)
        try:
            return self._register(make, alive, owner)
        except BaseException:
            self._places.release(n, owner)
            raise

    def _register(self, make: Callable[[int], P], alive: Callable[[], bool], owner: str) -> P:
        readiness = self._readiness
        while True:
            readiness.wait(alive, owner=owner)
            with self._lock:
                if readiness.closed:
                    raise readiness.farewell()
                worker = readiness.process
                if not readiness.ready or worker is None:  # it died just now
                    continue
                self._last_id += 1
                pending = make(self._last_id)
                # From here on the request belongs to this worker. If the worker dies, the code that
                # handles its death also handles the request, so the writer need not.
                pending.assign(worker)
                self._pending[pending.id] = pending
                return pending

    def hand_over(self, pending: Pending) -> None:
        """Send a registered request to its worker. A worker's death is handled in :meth:`died`.

        Raises:
            ContextLengthExceeded: it is too large for a frame.
        """
        with self._lock:
            if pending.id not in self._pending:  # its client has just left
                return
            process = pending.worker
            # Either its worker has died, and the next one will get the request, or another thread
            # has already sent it.
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
        """Tell the worker to cancel a request. A dead worker has stopped computing it anyway.

        Any thread may call this at any line: the collector of garbage ends abandoned streams.
        """
        process = self._readiness.process
        if process is not None:
            process.send_soon(Cancel(id))

    def send_end(self, id: int, choice: int) -> None:
        """Tell the worker to end a choice. The thread that reads the worker's events calls this, so
        it must not wait for the pipe."""
        process = self._readiness.process
        if process is not None:
            process.send_soon(Cancel(id, choice))

    def forget(self, pending: Pending) -> None:
        """Forget a request that was closed, release its places, and tell its record what became
        of it."""
        with self._lock:
            self._pending.pop(pending.id, None)
            if pending.state >= State.ANSWERING:
                self._blame.over(pending.id)
            else:
                self._blame.left(pending.id, self._last_ping)
            self._next_alone(pending.id)
            self._turnover.ended(pending.id)
        self._places.release(pending.n, pending.owner)
        if pending.record is not None:
            pending.record.report(outcome_of(pending, self._name))

    # --- suspects, one by one -----------------------------------------------------------------

    def _may_go(self, pending: Pending) -> bool:
        """Return whether a request may be sent now. Suspects are sent one by one, so that at most
        one of them is computed when the next worker dies. Called with the lock held."""
        if self._blame.suspected(pending.key):
            if self._alone not in (None, pending.id):
                self._held_back.append(pending)
                return False
            self._alone = pending.id
        self._blame.enter(pending.id, pending.key)
        return True

    def _next_alone(self, id: int) -> None:
        """Send the requests that were held back if request ``id``, whose prompt is computed or
        which has ended, was the one that they waited for. Called with the lock held."""
        if id != self._alone:
            return
        self._alone = None
        if self._held_back:
            held_back, self._held_back = [*self._held_back], deque()
            self._send_later(held_back)

    # --- sent by other threads ----------------------------------------------------------------

    def _send_later(self, requests: list[Pending]) -> None:
        """Send requests from a new thread, because the pipe may be full. If the system cannot start
        a thread, the requests wait until the watchdog tries again."""
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
            except ContextLengthExceeded as ex:  # it was never written to a worker before
                _fail(pending, ex)
            if pending.id not in self._pending:  # it was cancelled meanwhile
                self.send_cancel(pending.id)

    def pinging(self, number: int) -> None:
        """Remember the ping; try again to send the requests that wait for a thread."""
        self._last_ping = number
        with self._lock:
            unsent, self._unsent = self._unsent, []
        if unsent:
            self._send_later(unsent)

    # --- from the worker to the clients -------------------------------------------------------

    def ready(self, process: WorkerProcess) -> None:
        """Assign the requests that the last worker left to the next one. :meth:`tell` sends them,
        because no thread should be started while the lock is held."""
        self._assigned = [p for p in self.pending() if p.state == State.WAITING]
        for pending in self._assigned:
            pending.assign(process)

    def take(self, events: Sequence[EngineEvent]) -> None:
        """Push the events of a step to their requests."""
        for event in events:
            pending = self._deliver(event)
            if pending is not None:
                self._touched[pending.id] = pending

    def tell(self) -> None:
        """Call the listener of each request that got events, once; send the assigned requests."""
        touched, self._touched = self._touched, {}
        for pending in touched.values():
            _tell(pending)
        assigned, self._assigned = self._assigned, []
        if assigned:
            self._send_later(assigned)

    def pong(self, number: int, busy_for: float) -> None:
        """Note that the worker has handled all cancels that were sent before this ping."""
        self._blame.pong(number, busy_for)

    def _deliver(self, event: EngineEvent) -> Pending | None:
        """Push an event to its request; return the request if its listener must be called."""
        pending = self._pending.get(event.id)
        # Further tokens of a stream change nothing in the blame.
        if pending is None or pending.state < State.ANSWERING:
            self._note(event)
        if pending is None:  # cancelled meanwhile
            return None
        if isinstance(event, Tokenising):
            return None
        if isinstance(event, Started):
            pending.advance(State.STARTED)
            if isinstance(pending, Generation):
                with self._lock:
                    if pending.id in self._pending:  # else its end was noted just now
                        self._turnover.began(pending.id)
            return None
        if isinstance(event, Queued):
            if isinstance(pending, Generation):
                pending.queued = event
            return None
        pending.push(event)
        return pending

    def _note(self, event: EngineEvent) -> None:
        """Track what the worker computes, in case it dies of it."""
        with self._lock:
            if isinstance(event, Tokenising):
                self._blame.tokenising(event.id, event.lane)
            elif isinstance(event, Accepted):
                self._blame.tokenised(event.id)
            elif isinstance(event, Started):
                if event.computing:
                    self._blame.prefilling(event.id)
            elif isinstance(event, (TokenResult, Failed)):
                self._blame.over(event.id, harmless=True)
                self._next_alone(event.id)
            elif proves_harmless(event):
                self._blame.harmless(event.id)
                self._next_alone(event.id)

    # --- ends ---------------------------------------------------------------------------------

    def died(self, cause: str, innocent: bool = False) -> bool:
        """Fail the requests that may not be retried, keep the rest for the next worker.

        Args:
            cause: a sentence that says why it died; empty if that is not known.
            innocent: whether no prompt can be the reason.

        Returns:
            Whether the worker may have died of a prompt that it computed.
        """
        with self._lock:
            suspects = self._blame.crashed(innocent)
            self._alone = None
            self._held_back.clear()
            under_way = [p for p in self._pending.values() if not p.ended]
            over = [p for p in under_way if not self._try_again(p, suspects)]
            again = len(under_way) - len(over)
        if again:
            log.warning("%d requests of %s are passed to its next worker", again, self._name)
        for pending in over:
            waited = pending.state < State.STARTED and pending.key not in suspects
            _fail(pending, EngineFault(f"{_DIED_TWICE if waited else _DIED} {cause}".rstrip()))
        return bool(suspects)

    def _try_again(self, pending: Pending, suspects: set[str]) -> bool:
        """Prepare a request for the next worker, if it may be retried; return whether it may.

        It may be retried once, if no part of its answer has come; any number of times, if it has
        not been sent. If several suspects were computed, all are retried, one after the other
        (:meth:`_may_go`); a suspect that was computed alone is guilty.
        """
        guilty = pending.key in suspects and len(suspects) == 1
        if guilty or pending.state >= State.SCORED or self._blame.refused(pending.key):
            return False
        if pending.retried and pending.state >= State.SENT:
            return False
        pending.again()
        return True

    def lost(self) -> None:
        """Fail the requests that the worker had been given."""
        for pending in self.pending():
            if pending.state != State.WAITING:
                _fail(pending, EngineFault(_DIED))

    def given_up(self, failure: LoadFailure) -> None:
        """Fail all requests, because the model cannot be loaded."""
        self.fail_all(ModelLoadFailed(failure.message))

    def fail_all(self, error: RequestError) -> None:
        """End all requests with an error."""
        for pending in self.pending():
            _fail(pending, error)


def _fail(pending: Pending, error: RequestError) -> None:
    """End a request with an error, unless it has already ended."""
    if pending.ended:
        return
    pending.push(Failed.of(pending.id, error))
    _tell(pending)


def _tell(pending: Pending) -> None:
    listener = pending.listener
    if listener is not None:
        listener()
