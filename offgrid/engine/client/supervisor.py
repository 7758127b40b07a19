"""Runs one worker process after another, and gives up on a model that never loads.

This module knows nothing of requests: it passes a worker's reports and its end to a
:class:`Listener`.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from offgrid.engine.attention import Choice
from offgrid.engine.client.patience import OutOfMemory, Restarts
from offgrid.engine.client.process import WorkerProcess, not_started, public, start_thread
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.watchdog import Watchdog
from offgrid.engine.memory import written
from offgrid.engine.protocol.commands import Load, Stop
from offgrid.engine.protocol.events import EngineEvent
from offgrid.engine.protocol.reports import LoadFailed, Loading, Lost, Pong, Ready, Report, Step
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.errors import Overloaded, RequestError

log = logging.getLogger(__name__)

_LOADS = 2
"""Most attempts to load a model whose process is killed while it loads."""
_OUT_OF_MEMORY = (
    "the system killed its process{} because memory ran out (out of memory). Lower "
    "OFFGRID_PARALLEL (--parallel) or OFFGRID_CTX_SIZE (--ctx-size), or free memory."
)
_SHORT = "Memory had run out."
_OVERWRITTEN = "The file of the model was overwritten while it was served."
_SAVE_SECONDS = 5.0
"""Time that a worker has for writing prefixes to disk when it is stopped."""
_END_SECONDS = 2.0
"""Time after which a worker that should have ended is killed."""
_STARTS = 3
"""Most attempts to start the process of a model that has never been ready."""


class Listener(ABC):
    """Gets the events of a model's workers.

    The supervisor's thread, which reads a worker's reports, calls all methods unless stated
    otherwise. No method may wait for a worker.
    """

    @abstractmethod
    def ready(self, process: WorkerProcess) -> None:
        """A worker has loaded the model. Called with the lock held, so that a thread which sees
        that the model is ready also sees the effects of this call."""

    @abstractmethod
    def take(self, events: Sequence[EngineEvent]) -> None:
        """A step of the worker has produced these events."""

    @abstractmethod
    def tell(self) -> None:
        """All reports that have arrived were passed on: threads that wait for their events can be
        woken."""

    @abstractmethod
    def pinging(self, number: int) -> None:
        """A ping is about to be sent, as happens every second. Called by the watchdog thread."""

    @abstractmethod
    def pong(self, number: int, busy_for: float) -> None:
        """The worker has answered a ping, ``busy_for`` seconds after its current step began. Called
        with the lock held."""

    @abstractmethod
    def died(self, cause: str, innocent: bool = False) -> bool:
        """The worker, which had been ready, has ended.

        Args:
            cause: a sentence that says why, for clients; empty if that is not known.
            innocent: whether no prompt can be the reason.

        Returns:
            Whether it may have died of a prompt that it computed.
        """

    @abstractmethod
    def lost(self) -> None:
        """A worker could not be started, or handling it failed: its requests are lost."""

    @abstractmethod
    def given_up(self, failure: LoadFailure) -> None:
        """The model cannot be loaded, and no further process is started for it."""


class Supervisor:
    """Runs the workers of one model.

    Args:
        load: the first command for each worker.
        readiness: the supervisor keeps it up to date.
        listener: gets the events of the workers.
        name: the model's name in messages.
        needs: bytes of memory that it needs with full contexts, for the log; 0 if that is unknown.
        load_timeout: most seconds that loading may take.
        stall_timeout: most seconds that one step of the loop may take.
        clock: monotonic seconds.

    Attributes:
        watchdog: kills a worker that is stuck.
    """

    def __init__(
        self,
        load: Load,
        readiness: Readiness,
        listener: Listener,
        *,
        load_timeout: float,
        stall_timeout: float,
        name: str = "",
        needs: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stopping = threading.Event()
        self.watchdog = Watchdog(
            readiness, listener.pinging, self._stopping, stall_timeout=stall_timeout, clock=clock
        )
        self._load = load
        self._readiness = readiness
        self._listener = listener
        self._name = name
        self._needs = needs
        self._load_timeout = load_timeout
        self._clock = clock
        self._began = 0.0
        """When the current worker began to load the model."""
        self._restarts = Restarts()
        self._failed_starts = 0
        self._killed_loading = 0
        """Workers in a row that were killed while they loaded."""
        self._memory = OutOfMemory()
        self._refusal: LoadFailed | None = None
        """Why the model cannot be loaded, as reported by the current worker or the load limit."""
        self._lost = ""
        """Which other machine the current worker has lost; empty if none."""

    @property
    def pause(self) -> float:
        """Seconds to wait before the next worker is started."""
        return self._restarts.pause

    def start(self) -> None:
        """Start the first worker in the background.

        Raises:
            Overloaded: the system cannot start a thread now. No thread is left running.
        """
        try:
            # Start the watchdog first: it can be stopped even if no supervisor was started.
            for run, name in ((self.watchdog.run, "watchdog"), (self._supervise, "supervisor")):
                start_thread(threading.Thread(target=run, name=f"engine-{name}", daemon=True))
        except Overloaded:
            self._stopping.set()
            raise

    def stop(self) -> None:
        """Start no further worker. The current one continues: see :meth:`end_worker`."""
        self._stopping.set()

    def end_worker(self) -> None:
        """Stop the current worker and wait for its end. If it has prefixes to write to disk, that
        takes up to ``_SAVE_SECONDS``. A process that the system cannot end, because it waits for a
        disk or a device, is left to the system."""
        process = self._readiness.process
        if process is not None:
            try:
                # If the worker is stuck, the pipe may be full and another writer may be blocked:
                # never wait for either.
                process.send(Stop(_SAVE_SECONDS), wait=False)
                process.wait(_SAVE_SECONDS + _END_SECONDS)
            except (RequestError, subprocess.TimeoutExpired):
                process.kill()
                try:
                    process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    log.error(
                        "worker %d of %s was killed and does not end", process.pid, self._name
                    )

    def kill(self) -> None:
        """Kill the current worker, as a crash would; the next one is started."""
        process = self._readiness.process
        if process is not None:
            process.kill()

    # --- one worker after another -------------------------------------------------------------

    def _supervise(self) -> None:
        """Run one worker after another. This thread must outlive each of them: see
        :mod:`offgrid.engine.client.process`."""
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C in a terminal also goes to the workers. They inherit this thread's signal mask,
            # so these signals cannot end them before they ignore them.
            signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SERVER)
        readiness, restarts = self._readiness, self._restarts
        while not readiness.closed:
            if self._stopping.wait(restarts.pause):
                return
            born = time.monotonic()
            computed = True
            try:
                computed = self._serve_one_process()
            except Exception as ex:
                self._after_failure(ex)
            if readiness.closed or readiness.load_failure is not None:
                return
            restarts.ended(time.monotonic() - born, computed)

    def _after_failure(self, ex: Exception) -> None:
        """Handle a failure to start or to handle a worker. Another one is started after a pause.
        For a model that has never been ready, the supervisor gives up after ``_STARTS`` failures,
        and its requests fail with the reason."""
        self._failed_starts += 1
        expected = isinstance(ex, (OSError, RuntimeError))
        log.error("no worker for %s: %s", self._name, ex, exc_info=ex)
        if self._readiness.info is None and self._failed_starts >= _STARTS:
            why = not_started(ex) if expected else "its worker process does not work; see the log."
            self.give_up(LoadFailed(why))
            return
        # No other code ends the requests that the process had been given.
        self._listener.lost()

    def give_up(self, refusal: LoadFailed, *, costly: bool = False) -> None:
        """Start no further process for this model; requests for it fail with the reason."""
        name = f"The model {self._name}" if self._name else "The model"
        message = f"{name} cannot be loaded: {refusal.message}"
        failure = LoadFailure(message, refusal.lasting, costly)
        self._readiness.give_up(failure)
        self._stopping.set()
        self._listener.given_up(failure)

    def _serve_one_process(self) -> bool:
        """Run one worker from its start to its end.

        Returns:
            Whether it may have died of a prompt that it computed.

        Raises:
            OSError, RuntimeError: no process could be started.
        """
        process = WorkerProcess(self._load)
        try:
            self._run(process)
            status = process.wait()
            process.close()
            return self._after_death(process, status)
        except BaseException:
            process.end()
            self._readiness.end()
            raise

    def _run(self, process: WorkerProcess) -> None:
        """Handle a worker's reports until it ends."""
        with self._readiness.lock:
            self._refusal, self._lost = None, ""
            self._began = self._clock()
            self._readiness.begin(process)
            self._readiness.pulse.begin(self._clock())
            self.watchdog.begin()
        loading = threading.Timer(self._load_timeout, self._kill_unless_ready, args=(process,))
        loading.name, loading.daemon = "load-limit", True
        loading.start()
        if self._readiness.closed:  # closed while the process was being started
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
        if not self._readiness.ready and process.running:
            log.error("%s did not load within %g s", self._name, self._load_timeout)
            self._refusal = LoadFailed(
                f"it did not load within {self._load_timeout:g} s (OFFGRID_LOAD_TIMEOUT)."
            )
            process.kill()

    def _after_death(self, process: WorkerProcess, status: int) -> bool:
        """Handle a worker's end; return whether it may have died of a prompt that it computed."""
        was_ready = self._readiness.end()
        if self._readiness.closed:
            return False
        short = process.ran_out_of_memory
        what = "was killed because memory ran out" if short else f"ended with status {status}"
        if self._lost:
            log.error("worker %d of %s has ended: %s", process.pid, self._name, self._lost)
            if was_ready:
                return self._listener.died(self._lost, innocent=True)
            self.give_up(LoadFailed(self._lost))
            return False
        if not was_ready:
            _log_death(f"the worker of {self._name} {what} while loading.", process)
            self._after_failed_load(process, short)
            return False
        changed = not short and process.overwritten
        more = ", after its file was overwritten" if changed else ""
        _log_death(f"worker {process.pid} of {self._name} {what}{more}.", process)
        if short and self._memory.again(self._clock()):
            # Its requests end with the reason, instead of taking all memory a third time.
            self.give_up(LoadFailed(_OUT_OF_MEMORY.format(" twice")), costly=True)
            return False
        return self._listener.died(_SHORT if short else _OVERWRITTEN if changed else "")

    def _after_failed_load(self, process: WorkerProcess, short: bool) -> None:
        """Give up on the model, because the next worker would end for the same reason. Only a
        worker that was stuck, or that somebody killed, has a successor, once."""
        if short:
            self.give_up(LoadFailed(_OUT_OF_MEMORY.format("")), costly=True)
            return
        if (process.killed or self.watchdog.has_killed) and self._refusal is None:
            self._killed_loading += 1
            if self._killed_loading < _LOADS:
                log.warning("%s is loaded once more", self._name)
                return
            what = "stuck" if self.watchdog.has_killed else "killed"
            self.give_up(LoadFailed(f"its process was {what} twice while loading it."))
            return
        refusal = self._refusal or LoadFailed("the worker process died while loading it.")
        reason = public(refusal.message, self._load)
        self.give_up(LoadFailed(f"{reason} {process.reason()}".strip(), refusal.lasting))

    # --- reports of a worker ------------------------------------------------------------------

    def _take(self, reports: Sequence[Report]) -> None:
        """Handle the reports that came since the last call; call the listener's ``tell`` once."""
        self.watchdog.spoken()
        for report in reports:
            if isinstance(report, Step):
                self._listener.take(report.events)
            elif isinstance(report, Pong):
                with self._readiness.lock:
                    self.watchdog.answered(report.busy_for)
                    self._listener.pong(report.number, report.busy_for)
                self._readiness.pulse.heard(self._clock(), report)
                self._uses_threads(report.threads)
            elif isinstance(report, Ready):
                self._begin_to_serve(report)
            elif isinstance(report, Loading):
                self._readiness.progress = report.progress
            elif isinstance(report, LoadFailed):
                self._refusal = report
            elif isinstance(report, Lost):
                self._lost = report.message
        self._listener.tell()

    def _uses_threads(self, threads: tuple[int, ...]) -> None:
        """Note the numbers of threads for decode and for prefill."""
        if threads and threads != self._readiness.threads:
            self._readiness.threads = threads
            log.debug("%s: %d threads for decode, %d for prefill", self._name, *threads)

    def _begin_to_serve(self, report: Ready) -> None:
        self._uses_threads((report.info.n_threads,) * 2)
        with self._readiness.lock:
            self._killed_loading = 0
            self._readiness.serve(report.info)
            process = self._readiness.process
            assert process is not None  # it is the process whose report this is
            self._listener.ready(process)
            info = self._readiness.info
        most = f"; it needs up to {written(self._needs)}, with full contexts" if self._needs else ""
        how = ""
        if info is not None and info.generates:
            how = f"; {Choice(info.flash_attention, info.attention_reason)}"
        log.info("loaded %s in %.1f s%s%s", self._name, self._clock() - self._began, most, how)
        if info is not None and info.is_base:
            log.warning(
                "%s has no chat template, so it is a base model: it continues texts "
                "(/v1/completions), and its answers in chats will be poor. The setting "
                "chat_template supplies a template.",
                self._name,
            )


def _log_death(what: str, process: WorkerProcess) -> None:
    """Log a worker's end, and its trace line by line: each log record is a single line."""
    first, *others = process.trace().split("\n")
    log.error("%s %s", what, first)
    for line in others:
        log.error("%s", line)
