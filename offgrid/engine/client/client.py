"""The server's side of one model: ask its worker, watch it, start it again.

Nothing in this module imports llama.cpp. When the worker dies or hangs, the requests that it
computed end with an error; those that only waited are handed to the next worker, which is started
after a pause that grows with every failure.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from offgrid.engine.client.blame import Blame
from offgrid.engine.client.patience import Restarts, Silence, Stall
from offgrid.engine.client.pending import (
    POLL,
    ClientGone,
    Embedding,
    Generation,
    Hooks,
    Lookup,
    Pending,
    Vectors,
    error_of,
    proves_harmless,
)
from offgrid.engine.client.process import WorkerProcess, not_started, public, start_thread
from offgrid.engine.limits import check_prompt_tokens
from offgrid.engine.protocol import (
    MAX_FRAME,
    Accepted,
    Cancel,
    Command,
    Embed,
    EmbeddingRequest,
    Event,
    Failed,
    FrameTooLarge,
    GenerationRequest,
    Load,
    LoadFailed,
    LookUp,
    ModelInfo,
    Ping,
    Pong,
    Ready,
    Report,
    Started,
    Step,
    Stop,
    Submit,
    Tokenising,
    TokenQuery,
    Tokens,
)
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.errors import (
    ContextLengthExceeded,
    EngineFault,
    InvalidParameter,
    ModelLoadFailed,
    Overloaded,
    RequestError,
    RequestRefused,
)

__all__ = ["ClientGone", "EngineClient", "Generation", "LoadFailure", "error_of"]

log = logging.getLogger(__name__)

_PING_EVERY = 1.0
_PONG_WITHIN = 15.0
"""Seconds without an answer after which the process counts as stopped. The answering thread does
not wait for llama.cpp, so this is not the time of a step (``stall_timeout`` is)."""
_STARTS = 3
"""Tries to start the process of a model that has never been ready."""
_DIED = "The worker process of this model died while computing this request."
_DIED_TWICE = "The worker process of this model died twice while this request waited; try again."

P = TypeVar("P", bound=Pending)


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model is not loaded. ``lasting``: it fails until its file is another one."""

    message: str
    lasting: bool


class EngineClient:
    """A model that is served by a worker process of its own.

    Args:
        load: what the worker is told to serve.
        name: what messages call the model.
        queue_size: sequences that may wait beside the ``load.parallel`` running ones.
        load_timeout: seconds that loading may take.
        stall_timeout: seconds that one step of the loop may take.
        queue_timeout: seconds that a request may wait for its first slot, 0 for any time.
    """

    def __init__(
        self,
        load: Load,
        *,
        queue_size: int,
        load_timeout: float,
        stall_timeout: float,
        queue_timeout: float = 0.0,
        name: str = "",
    ) -> None:
        self.load = load
        self.name = name
        self.queue_timeout = queue_timeout
        self.capacity = load.parallel + queue_size
        self._load_timeout = load_timeout
        self._info: ModelInfo | None = None
        # Reentrant: a stream that nobody closed is cancelled when it is collected as garbage, which
        # may be at any line of any thread.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._process: WorkerProcess | None = None
        self._ready = False
        self._refusal: LoadFailed | None = None
        self._load_failure: LoadFailure | None = None
        self._closed = False
        self._draining = False
        self._pending: dict[int, Pending] = {}
        self._reserved = 0
        self._awaiting = 0
        self._last_id = 0
        self.hooks = Hooks(lambda pending: self.forget(pending), lambda id: self.send_cancel(id))
        self._blame = Blame()
        self._alone: int | None = None
        """The one request that is computed of those that may have ended a worker."""
        self._held_back: deque[Pending] = deque()
        """Others of those: they wait for its prompt to be computed."""
        self._pings = 0
        self._silence = Silence(_PING_EVERY)
        self._stall = Stall(stall_timeout)
        self._restarts = Restarts()
        self._failed_starts = 0
        self._unsent: list[Pending] = []
        """Requests for which no thread could be started that sends them."""
        self._stopping = threading.Event()
        self.running = 0
        """Sequences with a slot, as the worker said last."""
        self.waiting = 0
        """Sequences in the worker's queue, as the worker said last."""

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker in the background; :meth:`wait_ready` says when it serves.

        Raises:
            Overloaded: the system starts no thread for it now. Nothing is left of it.
        """
        try:
            # The watchdog first: it ends when it is told so, also where there is no supervisor.
            for run, name in ((self._watch, "watchdog"), (self._supervise, "supervisor")):
                start_thread(threading.Thread(target=run, name=f"engine-{name}", daemon=True))
        except Overloaded:
            self._stopping.set()
            raise

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Raises RuntimeError before the first :meth:`wait_ready`."""
        if self._info is None:
            raise RuntimeError("the model is not loaded yet")
        return self._info

    @property
    def pid(self) -> int | None:
        """The worker's process id while there is one."""
        process = self._process
        return None if process is None else process.pid

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and its worker serves."""
        return self._ready

    @property
    def load_failure(self) -> LoadFailure | None:
        """Why the file was not loaded, if that is over; only a new client tries again."""
        return self._load_failure

    @property
    def in_flight(self) -> int:
        """Sequences admitted and not finished: running or waiting."""
        return self._reserved

    def wait_ready(self, alive: Callable[[], bool] = lambda: True) -> ModelInfo:
        """Wait until the model is loaded.

        Raises:
            ModelLoadFailed: llama.cpp does not load it.
            Overloaded: it takes longer than ``load_timeout``, or the server is stopping.
            ClientGone: ``alive`` said no.
        """
        deadline = time.monotonic() + self._load_timeout
        with self._changed:
            if not self._ready and self._awaiting > self.capacity:
                raise Overloaded(
                    "The model is still loading and the queue is full.",
                    code="model_loading",
                    retry_after=5,
                )
            self._awaiting += 1
            try:
                return self._wait_ready(deadline, alive)
            finally:
                self._awaiting -= 1

    def _wait_ready(self, deadline: float, alive: Callable[[], bool]) -> ModelInfo:
        while not self._ready:
            if self._load_failure is not None:
                raise ModelLoadFailed(self._load_failure.message, "model")
            if self._closed:
                raise self._farewell()
            if time.monotonic() > deadline:
                raise Overloaded("The model is still loading.", code="model_loading", retry_after=5)
            self._changed.wait(POLL)
            if not alive():
                raise ClientGone
        assert self._info is not None
        return self._info

    def drain(self) -> None:
        """Refuse new requests from now on; running ones go on. The server is stopping."""
        self._draining = True

    def close(self, timeout: float = 0.0) -> None:
        """Let running requests finish for ``timeout`` seconds, end the rest, stop the worker.

        Without :meth:`drain` before, the model is unloaded by a server that goes on.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._reserved and time.monotonic() < deadline:
                self._changed.wait(POLL)
            self._closed = True
            self._changed.notify_all()
        self._stopping.set()
        farewell = self._farewell()
        self._fail(self._all(), farewell.message, "Overloaded", farewell.code)
        process = self._process
        if process is not None:
            try:
                # A stuck worker leaves the pipe full and its writer waiting: never queue up there.
                process.send(Stop(), wait=False)
                process.wait(2.0)
            except (RequestError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()

    def _farewell(self) -> Overloaded:
        """What a closed client answers."""
        if self._draining:
            return Overloaded("The server is stopping.", code="server_shutting_down")
        return Overloaded("The model has just been unloaded; try again.", code="model_loading")

    # --- requests -----------------------------------------------------------------------------

    def hold(self, n: int, times: int, *, more: bool = False) -> int:
        """Take places in the queue for several requests to come, as far as there are any.

        All but the first leave as many places as there are slots to others, if the queue has so
        many.

        Args:
            n: sequences of each request.
            times: how many requests.
            more: whether these come after others, so that none of them is the first.

        Returns:
            For how many of them there are places: at least for the first. :meth:`release` gives
            ``n`` back for each.

        Raises:
            InvalidParameter: there could never be so many places.
            Overloaded: not even for the first, or the server is stopping.
        """
        self._check_n(n)
        first = 0 if more else 1
        with self._lock:
            self._reserve(n * first)
            spare = min(self.load.parallel, self.capacity - self.load.parallel)
            others = max(0, min(times - first, (self.capacity - spare - self._reserved) // n))
            self._reserved += n * others
        return first + others

    def submit(
        self,
        request: GenerationRequest,
        alive: Callable[[], bool] = lambda: True,
        *,
        held: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> Generation:
        """Hand a request to the worker and wait until its prompt is accepted.

        Args:
            request: what to generate.
            alive: asked now and then while waiting whether the client is still there.
            held: whether it gets places that :meth:`hold` took; they stay taken when it is over.
            ended: called by the client's reader thread when everything has come that ever will.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request's fault.
            Overloaded: the queue is full, the model is loading for too long, or stopping.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` said no.
        """
        self._check_n(request.n)
        if request.tokens is not None and self._info is not None:
            # The worker does so, too; but to send it a million of them takes this process time.
            check_prompt_tokens(len(request.tokens), self._info.n_ctx, request.prompt_param)
        prompt = (request.parts, request.tokens, request.images, request.grammar)
        key = self.key_of(prompt, request.prompt_param)
        places = 0 if held else request.n
        generation = self.register(
            lambda id: Generation(
                key, Submit(id, request), places, self.hooks, ended, self.queue_timeout
            ),
            places,
            alive,
        )
        try:
            self.hand_over(generation)
            generation.wait_accepted(alive)
        except BaseException:
            generation.cancel()
            raise
        return generation

    def look_up(self, query: TokenQuery, alive: Callable[[], bool] = lambda: True) -> Tokens:
        """Ask the worker's tokenizer. Takes no place in the queue.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the question's fault.
            Overloaded: the model is loading for too long, or stopping.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` said no.
        """
        key = self.key_of((query.parts, query.tokens, query.images, None), query.param)
        self._reserve(0)
        lookup = self.register(lambda id: Lookup(key, LookUp(id, query), self.hooks), 0, alive)
        try:
            self.hand_over(lookup)
            return lookup.wait(alive)
        finally:
            lookup.cancel()

    def embed(self, request: EmbeddingRequest, alive: Callable[[], bool]) -> Vectors:
        """Return the vectors of a request's inputs, or their scores if it has a query.

        Args:
            request: at least one input.
            alive: asked now and then while waiting whether the client is still there.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request's fault.
            Overloaded, EngineFault, ClientGone: see :meth:`submit`.
        """
        key = self.key_of((request.inputs, request.query), None)
        pending = self.register(
            lambda id: Embedding(key, Embed(id, request), self.hooks), Embedding.PLACES, alive
        )
        try:
            self.hand_over(pending)
            return pending.wait(alive)
        finally:
            pending.cancel()

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
            ModelLoadFailed, Overloaded, ClientGone: see :meth:`wait_ready`.
        """
        if n:
            self._reserve(n)
        try:
            return self._register(make, alive)
        except BaseException:
            self.release(n)
            raise

    def _register(self, make: Callable[[int], P], alive: Callable[[], bool]) -> P:
        while True:
            self.wait_ready(alive)
            with self._lock:
                if self._closed:
                    raise self._farewell()
                if not self._ready:  # it died just now
                    continue
                self._last_id += 1
                pending = make(self._last_id)
                # From here on it is in the hands of this very worker, and when that dies, of those
                # who deal with its death: whoever writes to it need not know of that.
                pending.worker = self._process
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
            if process is None or pending.sent or not self._may_go(pending):
                return
            pending.sent = True
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
        """A request has been computed, or is over: is it the turn of one that was held back?"""
        if id != self._alone:
            return
        self._alone = None
        if self._held_back:
            held_back, self._held_back = [*self._held_back], deque()
            self._send_later(held_back)

    def _send_later(self, requests: list[Pending]) -> None:
        """Send requests from a thread that may wait: a pipe may be full. While the system starts
        none, they wait: the watchdog tries again."""
        sender = threading.Thread(
            target=self._send_all, args=(requests,), name="engine-retry", daemon=True
        )
        try:
            sender.start()
        except RuntimeError as ex:
            log.error("%d requests of %s wait to be sent: %s", len(requests), self.name, ex)
            with self._lock:
                self._unsent += requests

    def _send_all(self, requests: list[Pending]) -> None:
        for pending in requests:
            if pending.id not in self._pending:
                continue
            try:
                self.hand_over(pending)
            except ContextLengthExceeded as ex:  # it has never been written to a worker before
                error = type(ex).__name__
                pending.push(Failed(pending.id, error, ex.message, ex.param, ex.code))
                _tell(pending)
            if pending.id not in self._pending:  # its client left meanwhile
                self.send_cancel(pending.id)

    def _reserve(self, n: int) -> None:
        with self._changed:
            if self._draining or self._closed:
                raise self._farewell()
            if n and self._reserved + n > self.capacity:
                raise Overloaded("All slots are busy and the queue is full.", code="server_busy")
            self._reserved += n

    def _check_n(self, n: int) -> None:
        if n > self.capacity:
            raise InvalidParameter(
                f"n must be at most {self.capacity} on this server (slots plus queue).", "n"
            )

    def release(self, n: int) -> None:
        """Give places in the queue back."""
        with self._changed:
            self._reserved -= n
            self._changed.notify_all()

    def forget(self, pending: Pending) -> None:
        """Called by a request when it is over."""
        with self._lock:
            self._pending.pop(pending.id, None)
            if pending.proven:
                self._blame.over(pending.id)
            else:
                self._blame.left(pending.id, self._pings)
            self._next_alone(pending.id)
        self.release(pending.n)

    def send_cancel(self, id: int) -> None:
        """Tell the worker to stop a request; a worker that is gone has stopped it already."""
        process = self._process
        try:
            if process is not None:
                process.send(Cancel(id))
        except EngineFault:
            log.debug("cancel of request %d: no worker", id)

    def send(self, command: Command) -> None:
        """Write a command to the present worker.

        Raises:
            EngineFault: there is none.
        """
        process = self._process
        if process is None:
            raise EngineFault("The worker process of this model is not running; try again.")
        process.send(command)

    # --- the process --------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Run one worker after the other. This thread outlives each of them: see
        :mod:`offgrid.engine.client.process`."""
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C in a terminal goes to the workers too, and they are started with this thread's
            # mask: nothing can end them before they have said that they ignore it.
            signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SERVER)
        restarts = self._restarts
        while not self._closed:
            if self._stopping.wait(restarts.pause):
                return
            born = time.monotonic()
            computed = True
            try:
                computed = self._serve_one_process()
            except Exception as ex:
                self._after_failure(ex)
            if self._closed or self._load_failure is not None:
                return
            restarts.ended(time.monotonic() - born, computed)

    def _after_failure(self, ex: Exception) -> None:
        """No worker could be started, or not be dealt with. It is tried again after a pause, but a
        model that has never been ready is given up after some tries: whoever asks is told why."""
        self._failed_starts += 1
        expected = isinstance(ex, (OSError, RuntimeError))
        log.error("no worker for %s: %s", self.name, ex, exc_info=ex)
        if self._info is None and self._failed_starts >= _STARTS:
            why = not_started(ex) if expected else "its worker process does not work; see the log."
            self._give_up(LoadFailed(why))
            return
        # Nobody else will end those that the process had been given.
        given = [pending for pending in self._all() if pending.worker is not None]
        self._fail(given, _DIED, "EngineFault", "engine_fault")

    def _serve_one_process(self) -> bool:
        """Run one worker from its start to its end.

        Returns:
            Whether it computed something that it may have died of.

        Raises:
            OSError, RuntimeError: none could be started.
        """
        process = WorkerProcess(self.load)
        try:
            self._run(process)
            status = process.wait()
            process.close()
            return self._after_death(process, status)
        except BaseException:
            process.end()
            with self._changed:
                self._process, self._ready = None, False
            raise

    def _run(self, process: WorkerProcess) -> None:
        """Take what a worker says until it ends."""
        with self._lock:
            self._refusal = None
            self._process = process
            self._silence.heard(time.monotonic())
            self._stall.begin()
        loading = threading.Timer(self._load_timeout, self._kill_unless_ready, args=(process,))
        loading.name, loading.daemon = "load-limit", True
        loading.start()
        if self._closed:  # while the process was being started
            process.kill()
        try:
            for reports in process.reports():
                self._take(reports)
        except (ValueError, msgspec.DecodeError, OSError) as ex:
            log.error("worker %d: %s", process.pid, ex)
            process.kill()
        except Exception:
            log.exception("handling the messages of worker %d failed", process.pid)
            process.kill()
        finally:
            loading.cancel()

    def _kill_unless_ready(self, process: WorkerProcess) -> None:
        if not self._ready and process.running:
            log.error("%s did not load within %g s", self.name, self._load_timeout)
            self._refusal = LoadFailed(
                f"it did not load within {self._load_timeout:g} s (OFFGRID_MODEL_LOAD_TIMEOUT)."
            )
            process.kill()

    def _after_death(self, process: WorkerProcess, status: int) -> bool:
        """Deal with a worker's end; return whether it may have died of what it computed."""
        with self._changed:
            was_ready, self._ready = self._ready, False
            self._process = None
        if self._closed:
            return False
        if not was_ready:
            # Whatever ended it while loading would end it again.
            _log_death(
                f"the worker of {self.name} ended with status {status} while loading it.", process
            )
            refusal = self._refusal or LoadFailed("the worker process died while loading it.")
            reason = public(refusal.message, self.load)
            self._give_up(LoadFailed(f"{reason} {process.reason()}".strip(), refusal.lasting))
            return False
        _log_death(f"worker {process.pid} ended with status {status}.", process)
        with self._lock:
            suspects = self._blame.crashed()
            self._alone = None
            self._held_back.clear()
            over = [p for p in self._pending.values() if not self._try_again(p, suspects)]
            again = len(self._pending) - len(over)
        if again:
            log.warning("%d requests of %s are passed to its next worker", again, self.name)
        for pending in over:
            waited = not (pending.started or pending.key in suspects)
            self._fail([pending], _DIED_TWICE if waited else _DIED, "EngineFault", "engine_fault")
        return bool(suspects)

    def _try_again(self, pending: Pending, suspects: set[str]) -> bool:
        """Prepare a request for the next worker if it may be tried again.

        That is once, when nothing has come of it yet. Of several that were computed all are tried
        again, one after the other (:meth:`_may_go`); one that was computed alone is guilty.
        """
        guilty = pending.key in suspects and len(suspects) == 1
        if guilty or pending.delivered or self._blame.refused(pending.key):
            return False
        if pending.retried and pending.sent:
            return False
        pending.again()
        return True

    def _give_up(self, refusal: LoadFailed) -> None:
        """The model is not loaded: no other process is started for it."""
        name = f"The model {self.name}" if self.name else "The model"
        message = f"{name} cannot be loaded: {refusal.message}"
        with self._changed:
            self._load_failure = LoadFailure(message, refusal.lasting)
            self._changed.notify_all()
        self._stopping.set()
        self._fail(self._all(), message, "ModelLoadFailed", "model_load_failed")

    def _all(self) -> list[Pending]:
        with self._lock:
            return [*self._pending.values()]

    def _fail(self, requests: list[Pending], message: str, error: str, code: str | None) -> None:
        for pending in requests:
            pending.push(Failed(pending.id, error, message, code=code))
            _tell(pending)

    def _take(self, reports: list[Report]) -> None:
        """Deal with what the worker has said since the last time; listeners are called once."""
        touched: dict[int, Pending] = {}
        for report in reports:
            if isinstance(report, Step):
                for event in report.events:
                    pending = self._deliver(event)
                    if pending is not None:
                        touched[pending.id] = pending
            else:
                self._handle(report)
        for pending in touched.values():
            _tell(pending)

    def _handle(self, report: Any) -> None:
        if isinstance(report, Pong):
            self.running, self.waiting = report.running, report.waiting
            with self._lock:
                self._silence.heard(time.monotonic())
                self._stall.reported(report.busy_for)
                self._blame.pong(report.number, report.busy_for)
        elif isinstance(report, Ready):
            with self._changed:
                self._info = report.info
                self._ready = True
                waiting = self._all()
                for pending in waiting:
                    pending.worker = self._process
                self._changed.notify_all()
            if waiting:
                self._send_later(waiting)
        elif isinstance(report, LoadFailed):
            self._refusal = report

    def _deliver(self, event: Event) -> Pending | None:
        """Push an event to its request; return that one, None if nobody need be told."""
        pending = self._pending.get(event.id)
        if pending is None or not pending.proven:  # a stream's next token changes nothing there
            self._note(event)
        if pending is None:  # cancelled meanwhile
            return None
        pending.proven = pending.proven or proves_harmless(event)
        if isinstance(event, (Tokenising, Started)):
            pending.started = pending.started or isinstance(event, Started)
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

    def _watch(self) -> None:
        """Kill a worker that does not answer or whose step takes too long."""
        while not self._stopping.wait(_PING_EVERY):
            with self._lock:
                process = self._process
                silent = self._silence.look(time.monotonic())
                stuck = silent > _PONG_WITHIN or self._stall.hangs
            if process is None:
                continue
            if stuck:
                log.error(
                    "worker %d is stuck (silent for %.0f s, in its step for %.0f s): ended",
                    process.pid, silent, self._stall.busy_for,
                )  # fmt: skip
                process.kill()
                with self._lock:
                    self._silence.heard(time.monotonic())
                    self._stall.begin()
                continue
            self._pings += 1
            self._ping(self._pings)
            with self._lock:
                unsent, self._unsent = self._unsent, []
            if unsent:
                self._send_later(unsent)

    def _ping(self, number: int) -> None:
        process = self._process
        try:
            # A stopped worker leaves the pipe full and its writer waiting: never queue up there.
            if process is not None:
                process.send(Ping(number), wait=False)
        except EngineFault:
            log.debug("ping %d: no worker", number)


def _log_death(what: str, process: WorkerProcess) -> None:
    """Log a worker's end; a trace line by line, for a record is one line whatever it says."""
    first, *others = process.trace().split("\n")
    log.error("%s %s", what, first)
    for line in others:
        log.error("%s", line)


def _tell(pending: Pending) -> None:
    listener = pending.listener
    if listener is not None:
        listener()
