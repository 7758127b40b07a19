"""The server's side of one worker process: start it, watch it, ask it, start it again.

Nothing in this module imports llama.cpp. When the worker dies or hangs, the requests that ran in
it end with an error, and a new process is started after a pause that grows with every failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import IO, Any, Protocol, TypeVar

import msgspec

from offgrid import errors
from offgrid.engine.lookup import Lookup
from offgrid.engine.protocol import (
    Accepted,
    Cancel,
    Command,
    Delta,
    Embedded,
    Event,
    Failed,
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
    TokenQuery,
    Tokens,
    encode_frame,
    read_reports,
)
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.errors import (
    EngineFault,
    InvalidParameter,
    ModelLoadFailed,
    Overloaded,
    RequestError,
    RequestRefused,
)

log = logging.getLogger(__name__)
llama_log = logging.getLogger("offgrid.llama")

_POLL = 0.1
"""Seconds between two looks at whether a waiting client is still there."""
_PING_EVERY = 1.0
_PONG_WITHIN = 15.0
"""Seconds without an answer after which the process counts as stopped. The answering thread does
not wait for llama.cpp, so this is not the time of a step (``stall_timeout`` is)."""
_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_HEALTHY_AFTER = 60.0
"""Seconds that a worker must have lived for the next restart to be immediate again."""
_STRIKES = 2
_REMEMBERED_STRIKES = 1024


class ClientGone(Exception):
    """The client left while its request waited."""


class Pending(Protocol):
    """What the client sees of a request that is in the worker's hands."""

    id: int
    n: int
    """Places in the queue that it holds."""
    key: str
    computing: bool
    """Whether a crash may be its fault."""
    started: bool
    """Whether the worker has begun with it."""
    listener: Callable[[], None] | None
    """Called by the client's reader thread after what it has pushed."""

    def push(self, event: Event) -> None:
        """Take an event in; called by the client's reader thread only."""


P = TypeVar("P", bound=Pending)


class Generation:
    """One accepted request. Use :meth:`next` until :attr:`finished`, or :meth:`cancel` it.

    Attributes:
        prompt_tokens: tokens of the prompt.
        prompt_text: text of a prompt given as token ids, if the request asks for it.
        seed: the seed in force.
    """

    def __init__(
        self,
        engine: EngineClient,
        id: int,
        request: GenerationRequest,
        key: str,
        places: int,
        ended: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._open_choices = request.n
        self._unsaid = request.n
        self._over = False
        self._closing = threading.RLock()
        self.ended = False
        """Whether everything has come that ever will."""
        self._tell_end = ended
        self.failed = False
        self.listener: Callable[[], None] | None = None
        """Called by the engine client's reader thread after what it has pushed."""
        self.id = id
        self.n = places
        self.key = key
        self.started = False
        """Whether a sequence of it has got a slot."""
        self._accepted_at = time.monotonic()
        self.computing = False
        """Whether the worker is tokenising or prefilling it: what a crash may be blamed on."""
        self.prompt_tokens = 0
        self.prompt_text = ""
        self.seed = 0

    @property
    def finished(self) -> bool:
        """Whether every choice has sent its finish_reason."""
        return self._open_choices == 0

    @property
    def overdue(self) -> bool:
        """Whether it has waited for a slot for longer than the engine allows."""
        limit = self._engine.queue_timeout
        if not limit or self.started:
            return False
        return time.monotonic() - self._accepted_at > limit

    def push(self, event: Event) -> None:
        """Called by the engine client's reader thread, and by whoever ends everything."""
        self.failed = self.failed or isinstance(event, Failed)
        self._events.put(event)
        if isinstance(event, Delta):
            self._unsaid -= event.finish_reason is not None
        if self.failed or not self._unsaid:
            self.ended = True
            self._tell_end()

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

    def cancel(self) -> None:
        """Stop the work for this request. Idempotent, harmless after the end."""
        if self._close():
            self._engine.send_cancel(self.id)

    def wait_accepted(self, alive: Callable[[], bool]) -> None:
        """Wait for the worker's verdict on the prompt.

        Raises:
            RequestError: the request is refused or failed.
            ClientGone: ``alive`` said no; the request is cancelled.
        """
        while True:
            try:
                event = self._events.get(timeout=_POLL)
            except queue.Empty:
                if not alive():
                    self.cancel()
                    raise ClientGone from None
                continue
            if isinstance(event, Failed):
                self._close()
                raise error_of(event)
            if isinstance(event, Accepted):
                self.prompt_tokens = event.prompt_tokens
                self.seed = event.seed
                self.prompt_text = event.prompt_text
                return

    def _close(self) -> bool:
        """Give the place in the queue back; return whether it was still held."""
        with self._closing:
            if self._over:
                return False
            self._over = True
        self._engine.forget(self)
        return True


class EngineClient:
    """A model that is served by a worker process of its own.

    Args:
        load: what the worker is told to serve.
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
    ) -> None:
        self.load = load
        self.queue_timeout = queue_timeout
        self.capacity = load.parallel + queue_size
        self._load_timeout = load_timeout
        self._stall_timeout = stall_timeout
        self._info: ModelInfo | None = None
        # Reentrant: a stream that nobody closed is cancelled when it is collected as garbage, which
        # may be at any line of any thread.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._write_lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._refusal: str | None = None
        self._load_error: str | None = None
        self._closed = False
        self._draining = False
        self._generations: dict[int, Pending] = {}
        self._lookups: dict[int, Lookup] = {}
        self._reserved = 0
        self._awaiting = 0
        self._last_id = 0
        self._strikes: OrderedDict[str, int] = OrderedDict()
        self._log_tail: deque[str] = deque(maxlen=50)
        self._pong_at = 0.0
        self._busy_for = 0.0
        self._stopping = threading.Event()
        self.running = 0
        """Sequences with a slot, as the worker said last."""
        self.waiting = 0
        """Sequences in the worker's queue, as the worker said last."""

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker in the background; :meth:`wait_ready` says when it serves."""
        threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True).start()
        threading.Thread(target=self._watch, name="engine-watchdog", daemon=True).start()

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
    def load_failed(self) -> bool:
        """Whether llama.cpp refused the file; only a new client tries again."""
        return self._load_error is not None

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
            if self._load_error is not None:
                raise ModelLoadFailed(self._load_error, "model")
            if self._closed:
                raise Overloaded("The server is stopping.", code="server_shutting_down")
            if time.monotonic() > deadline:
                raise Overloaded("The model is still loading.", code="model_loading", retry_after=5)
            self._changed.wait(_POLL)
            if not alive():
                raise ClientGone
        assert self._info is not None
        return self._info

    def drain(self) -> None:
        """Refuse new requests from now on; running ones go on."""
        self._draining = True

    def close(self, timeout: float = 0.0) -> None:
        """Let running requests finish for ``timeout`` seconds, end the rest, stop the worker."""
        self.drain()
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._reserved and time.monotonic() < deadline:
                self._changed.wait(_POLL)
            self._closed = True
            self._changed.notify_all()
        self._stopping.set()
        self._fail_all("The server is shutting down.", "Overloaded", "server_shutting_down")
        process = self._process
        if process is not None:
            try:
                # A stuck worker leaves the pipe full and its writer waiting: never queue up there.
                self.send(Stop(), wait=False)
                process.wait(timeout=2.0)
            except (RequestError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()

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
        key = self.key_of((request.parts, request.tokens), request.prompt_param)
        places = 0 if held else request.n
        generation = self.register(
            lambda id: Generation(self, id, request, key, places, ended), places, alive
        )
        try:
            self.send(Submit(generation.id, request))
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
        key = self.key_of((query.parts, query.tokens), query.param)
        self._reserve(0)
        self.wait_ready(alive)
        with self._lock:
            self._last_id += 1
            lookup = Lookup(self._last_id, key)
            self._lookups[lookup.id] = lookup
        try:
            self.send(LookUp(lookup.id, query))
            tokens = lookup.wait(alive, error_of)
        finally:
            with self._lock:
                self._lookups.pop(lookup.id, None)
        if tokens is None:
            self.send_cancel(lookup.id)
            raise ClientGone
        self._strikes.pop(key, None)
        return tokens

    def key_of(self, prompt: object, param: str | None) -> str:
        """Return what a prompt is remembered by, should it end the worker.

        Raises:
            RequestRefused: it did so twice.
        """
        key = hashlib.sha256(msgspec.msgpack.encode(prompt)).hexdigest()
        if self._strikes.get(key, 0) >= _STRIKES:
            raise RequestRefused(
                "This prompt ended the model's process twice and is not tried again.", param
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
            self.wait_ready(alive)
        except BaseException:
            self.release(n)
            raise
        with self._lock:
            self._last_id += 1
            pending = make(self._last_id)
            pending.computing = True
            self._generations[pending.id] = pending
            return pending

    def _reserve(self, n: int) -> None:
        with self._changed:
            if self._draining or self._closed:
                raise Overloaded("The server is shutting down.", code="server_shutting_down")
            if n and self._reserved + n > self.capacity:
                raise Overloaded("All slots are busy and the queue is full.", code="server_busy")
            self._reserved += n

    def _check_n(self, n: int) -> None:
        if n > self.capacity:
            raise InvalidParameter(
                f"n is at most {self.capacity} on this server (its slots and queue).", "n"
            )

    def release(self, n: int) -> None:
        """Give places in the queue back."""
        with self._changed:
            self._reserved -= n
            self._changed.notify_all()

    def forget(self, generation: Pending) -> None:
        """Called by a request when it is over."""
        with self._lock:
            self._generations.pop(generation.id, None)
        self.release(generation.n)

    def send_cancel(self, id: int) -> None:
        """Tell the worker to stop a request; a worker that is gone has stopped it already."""
        try:
            self.send(Cancel(id))
        except EngineFault:
            log.debug("cancel of request %d: no worker", id)

    def send(self, command: Command, *, wait: bool = True) -> None:
        """Write a command. With ``wait`` false it is left out when another thread is writing.

        Raises:
            EngineFault: there is no worker.
        """
        frame = encode_frame(command)
        if not self._write_lock.acquire(blocking=wait):
            return
        try:
            process = self._process
            if process is None or process.stdin is None:
                raise BrokenPipeError
            process.stdin.write(frame)
            process.stdin.flush()
        except (OSError, ValueError):
            raise EngineFault("The model's process is not running; try again.") from None
        finally:
            self._write_lock.release()

    # --- the process --------------------------------------------------------------------------

    def _supervise(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C in a terminal goes to the workers too, and they are started with this thread's
            # mask: nothing can end them before they have said that they ignore it.
            signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SERVER)
        failures = 0
        while not self._closed:
            if self._stopping.wait(_PAUSES[min(failures, len(_PAUSES) - 1)]):
                return
            born = time.monotonic()
            self._serve_one_process()
            if self._closed or self._load_error is not None:
                return
            failures = 1 if time.monotonic() - born > _HEALTHY_AFTER else failures + 1

    def _serve_one_process(self) -> None:
        """Run one worker from its start to its end."""
        environ = dict(os.environ, GGML_NO_BACKTRACE="1")
        if "OMP_WAIT_POLICY" not in environ:
            # Threads of llama.cpp wait for each other after every operation. To sleep at once makes
            # a step ten times as long; to wait in a busy loop for as long as is usual takes the
            # processor from the one waited for as soon as anything else runs on the machine.
            environ.setdefault("GOMP_SPINCOUNT", "10000")
        # The worker must find the very modules that this process runs: "-m" would look into the
        # current folder first, where an uncompiled source tree may lie.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from offgrid.engine.worker import main; main()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # What to load is the first thing that a worker reads. It is written before anybody else
        # knows of the process: a ping that came before it would end it.
        with contextlib.suppress(OSError):  # it ended at once: reading will tell
            process.stdin.write(encode_frame(self.load))
            process.stdin.flush()
        with self._lock:
            self._process = process
            self._pong_at = time.monotonic()
            self._busy_for = 0.0
        stderr = threading.Thread(target=self._drain_log, args=(process.stderr,), daemon=True)
        stderr.start()
        loading = threading.Timer(self._load_timeout, self._kill_unless_ready, args=(process,))
        loading.daemon = True
        loading.start()
        if self._closed:  # while the process was being started
            process.kill()
        try:
            for reports in read_reports(process.stdout):
                self._take(reports)
        except (ValueError, msgspec.DecodeError, OSError) as ex:
            log.error("worker %d: %s", process.pid, ex)
            process.kill()
        finally:
            loading.cancel()
        status = process.wait()
        stderr.join(timeout=2.0)
        self._after_death(process, status)

    def _kill_unless_ready(self, process: subprocess.Popen[bytes]) -> None:
        if not self._ready and process.poll() is None:
            log.error("the model did not load within %g s", self._load_timeout)
            process.kill()

    def _after_death(self, process: subprocess.Popen[bytes], status: int) -> None:
        with self._changed:
            was_ready, self._ready = self._ready, False
            self._process = None
            under_way: list[Pending | Lookup] = [*self._generations.values()]
            for generation in [*under_way, *self._lookups.values()]:
                if generation.computing and was_ready and not self._closed:
                    self._strike(generation.key)
            if not was_ready and not self._closed:
                # Whatever ended it while loading would end it again.
                reason = self._refusal or "its process ended while loading."
                self._load_error = f"The model cannot be loaded: {reason} {self._last_words()}"
            self._changed.notify_all()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                _close_quietly(pipe)
        if not self._closed and was_ready:
            log.error("worker %d ended with status %d. %s", process.pid, status, self._last_words())
            self._fail_all(
                "The model's process ended while it worked on this request.",
                "EngineFault",
                "engine_fault",
            )

    def _strike(self, key: str) -> None:
        self._strikes[key] = self._strikes.pop(key, 0) + 1
        if len(self._strikes) > _REMEMBERED_STRIKES:
            self._strikes.popitem(last=False)

    def _fail_all(self, message: str, error: str, code: str) -> None:
        with self._lock:
            generations = list(self._generations.values())
            lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.push(Failed(lookup.id, error, message, code=code))
        for generation in generations:
            generation.push(Failed(generation.id, error, message, code=code))
            _tell(generation)

    def _take(self, reports: list[Report]) -> None:
        """Deal with what the worker has said since the last time; listeners are called once."""
        touched: dict[int, Pending] = {}
        for report in reports:
            if isinstance(report, Step):
                for event in report.events:
                    generation = self._deliver(event)
                    if generation is not None:
                        touched[generation.id] = generation
            else:
                self._handle(report)
        for generation in touched.values():
            _tell(generation)

    def _handle(self, report: Any) -> None:
        if isinstance(report, Pong):
            self._pong_at = time.monotonic()
            self._busy_for = report.busy_for
            self.running, self.waiting = report.running, report.waiting
        elif isinstance(report, Ready):
            with self._changed:
                self._info = report.info
                self._ready = True
                self._changed.notify_all()
        elif isinstance(report, LoadFailed):
            self._refusal = report.message

    def _deliver(self, event: Event) -> Pending | None:
        """Push an event to its generation; return that one, None if nobody need be told."""
        lookup = self._lookups.get(event.id)
        if lookup is not None:
            lookup.push(event)
        generation = self._generations.get(event.id)
        if generation is None:  # cancelled meanwhile
            return None
        if isinstance(event, Started):
            generation.started = True
            generation.computing = generation.computing or event.computing
            return None
        if isinstance(event, Accepted):
            generation.computing = False
        elif _proves_harmless(event) and generation.computing:
            generation.computing = False
            self._strikes.pop(generation.key, None)
        generation.push(event)
        return generation

    def _drain_log(self, stream: IO[bytes]) -> None:
        """Keep the pipe empty, whatever it says: a full pipe would stop the worker."""
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._log_tail.append(text)
                llama_log.debug("%s", text)

    def _last_words(self) -> str:
        words = [line for line in self._log_tail if "error" in line.lower()]
        return f"Last error: {words[-1]}" if words else ""

    def _watch(self) -> None:
        """Kill a worker that does not answer or whose step takes too long."""
        number = 0
        while not self._stopping.wait(_PING_EVERY):
            process = self._process
            if process is None:
                self._pong_at = time.monotonic()
                continue
            silent = time.monotonic() - self._pong_at
            if silent > _PONG_WITHIN or self._busy_for > self._stall_timeout:
                log.error(
                    "worker %d is stuck (silent for %.0f s, in its step for %.0f s): ended",
                    process.pid, silent, self._busy_for,
                )  # fmt: skip
                process.kill()
                self._pong_at = time.monotonic()
                self._busy_for = 0.0
                continue
            number += 1
            self._ping(number)

    def _ping(self, number: int) -> None:
        try:
            # A stopped worker leaves the pipe full and its writer waiting: never queue up there.
            self.send(Ping(number), wait=False)
        except EngineFault:
            log.debug("ping %d: no worker", number)


def _tell(generation: Pending) -> None:
    listener = generation.listener
    if listener is not None:
        listener()


def _proves_harmless(event: Event) -> bool:
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


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # what was still buffered has no reader any more
        log.debug("pipe already broken")
