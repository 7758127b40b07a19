"""Runs one worker process after the other, watches each, and gives a model up that never loads.

Nothing here knows what a request is: a :class:`Listener` is told what the worker says and when it
ends.
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

from offgrid.engine.client.patience import Restarts, Silence, Stall
from offgrid.engine.client.process import WorkerProcess, not_started, public, start_thread
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.protocol import (
    Event,
    Load,
    LoadFailed,
    Ping,
    Pong,
    Ready,
    Report,
    Step,
    Stop,
)
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.errors import EngineFault, Overloaded, RequestError

log = logging.getLogger(__name__)

_PING_EVERY = 1.0
_PONG_WITHIN = 15.0
_STARTS = 3
"""Tries to start the process of a model that has never been ready."""


class Listener(ABC):
    """Is told what happens to the workers of a model.

    Called by the supervisor's thread, which reads what a worker says, unless it is said otherwise.
    No call may wait for a worker.
    """

    @abstractmethod
    def ready(self, process: WorkerProcess) -> None:
        """A worker has loaded the model. Called with the lock held: whoever finds the model ready
        finds this done."""

    @abstractmethod
    def take(self, events: Sequence[Event]) -> None:
        """A step of the worker has said this."""

    @abstractmethod
    def tell(self) -> None:
        """That is all for now: whoever waits for one of these events can be woken."""

    @abstractmethod
    def pinging(self, number: int) -> None:
        """A ping is about to be sent, as happens every second. Called by the watchdog's thread."""

    @abstractmethod
    def pong(self, number: int, busy_for: float) -> None:
        """The worker has answered a ping, so many seconds into its present step. Called with the
        lock held."""

    @abstractmethod
    def died(self) -> bool:
        """The worker, which had been ready, has ended.

        Returns:
            Whether it may have died of what it computed.
        """

    @abstractmethod
    def lost(self) -> None:
        """A worker could not be started, or not be dealt with: what it was given is lost."""

    @abstractmethod
    def given_up(self, failure: LoadFailure) -> None:
        """The model cannot be loaded, and no other process is started for it."""


class Supervisor:
    """Runs the workers of one model.

    Args:
        load: what the worker is told to serve.
        readiness: what it keeps up to date.
        listener: what it tells of the workers.
        name: what messages call the model.
        load_timeout: seconds that loading may take.
        stall_timeout: seconds that one step of the loop may take.
        clock: seconds, never going back.

    Attributes:
        pong_within: seconds without an answer after which the process counts as stopped. The
            answering thread does not wait for llama.cpp, so this is not the time of a step.
        stall: knows how long a step may take.
        pings: number of the last ping.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pong_within = _PONG_WITHIN
        self.stall = Stall(stall_timeout)
        self.pings = 0
        self._load = load
        self._readiness = readiness
        self._listener = listener
        self._name = name
        self._load_timeout = load_timeout
        self._clock = clock
        self._silence = Silence(_PING_EVERY)
        self._restarts = Restarts()
        self._failed_starts = 0
        self._refusal: LoadFailed | None = None
        """What the present worker, or the load limit, said of the file."""
        self._stopping = threading.Event()

    @property
    def pause(self) -> float:
        """Seconds to wait before the next worker would be started."""
        return self._restarts.pause

    def start(self) -> None:
        """Start the first worker in the background.

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

    def stop(self) -> None:
        """Start no other worker. The present one runs on: see :meth:`end_worker`."""
        self._stopping.set()

    def end_worker(self) -> None:
        """End the present worker; wait for its end."""
        process = self._readiness.process
        if process is not None:
            try:
                # A stuck worker leaves the pipe full and its writer waiting: never queue up there.
                process.send(Stop(), wait=False)
                process.wait(2.0)
            except (RequestError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Kill the present worker, as a crash would end it: it is replaced."""
        process = self._readiness.process
        if process is not None:
            process.kill()

    # --- one worker after the other -----------------------------------------------------------

    def _supervise(self) -> None:
        """Run one worker after the other. This thread outlives each of them: see
        :mod:`offgrid.engine.client.process`."""
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C in a terminal goes to the workers too, and they are started with this thread's
            # mask: nothing can end them before they have said that they ignore it.
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
        """No worker could be started, or not be dealt with. It is tried again after a pause, but a
        model that has never been ready is given up after some tries: whoever asks is told why."""
        self._failed_starts += 1
        expected = isinstance(ex, (OSError, RuntimeError))
        log.error("no worker for %s: %s", self._name, ex, exc_info=ex)
        if self._readiness.info is None and self._failed_starts >= _STARTS:
            why = not_started(ex) if expected else "its worker process does not work; see the log."
            self.give_up(LoadFailed(why))
            return
        # Nobody else will end those that the process had been given.
        self._listener.lost()

    def give_up(self, refusal: LoadFailed) -> None:
        """Start no other process for this model: whoever asks for it is told why."""
        name = f"The model {self._name}" if self._name else "The model"
        failure = LoadFailure(f"{name} cannot be loaded: {refusal.message}", refusal.lasting)
        self._readiness.give_up(failure)
        self._stopping.set()
        self._listener.given_up(failure)

    def _serve_one_process(self) -> bool:
        """Run one worker from its start to its end.

        Returns:
            Whether it computed something that it may have died of.

        Raises:
            OSError, RuntimeError: none could be started.
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
        """Take what a worker says until it ends."""
        with self._readiness.lock:
            self._refusal = None
            self._readiness.begin(process)
            self._silence.heard(self._clock())
            self.stall.begin()
        loading = threading.Timer(self._load_timeout, self._kill_unless_ready, args=(process,))
        loading.name, loading.daemon = "load-limit", True
        loading.start()
        if self._readiness.closed:  # while the process was being started
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
                f"it did not load within {self._load_timeout:g} s (OFFGRID_MODEL_LOAD_TIMEOUT)."
            )
            process.kill()

    def _after_death(self, process: WorkerProcess, status: int) -> bool:
        """Deal with a worker's end; return whether it may have died of what it computed."""
        was_ready = self._readiness.end()
        if self._readiness.closed:
            return False
        if not was_ready:
            # Whatever ended it while loading would end it again.
            _log_death(
                f"the worker of {self._name} ended with status {status} while loading.", process
            )
            refusal = self._refusal or LoadFailed("the worker process died while loading it.")
            reason = public(refusal.message, self._load)
            self.give_up(LoadFailed(f"{reason} {process.reason()}".strip(), refusal.lasting))
            return False
        _log_death(f"worker {process.pid} ended with status {status}.", process)
        return self._listener.died()

    # --- what a worker says -------------------------------------------------------------------

    def _take(self, reports: Sequence[Report]) -> None:
        """Deal with what the worker has said since the last time; the listener tells once."""
        for report in reports:
            if isinstance(report, Step):
                self._listener.take(report.events)
            elif isinstance(report, Pong):
                with self._readiness.lock:
                    self._silence.heard(self._clock())
                    self.stall.reported(report.busy_for)
                    self._listener.pong(report.number, report.busy_for)
            elif isinstance(report, Ready):
                self._begin_to_serve(report)
            elif isinstance(report, LoadFailed):
                self._refusal = report
        self._listener.tell()

    def _begin_to_serve(self, report: Ready) -> None:
        with self._readiness.lock:
            self._readiness.serve(report.info)
            process = self._readiness.process
            assert process is not None  # it is the one that is being read
            self._listener.ready(process)

    # --- watching it --------------------------------------------------------------------------

    def _watch(self) -> None:
        """Kill a worker that does not answer or whose step takes too long."""
        while not self._stopping.wait(_PING_EVERY):
            with self._readiness.lock:
                process = self._readiness.process
                silent = self._silence.look(self._clock())
                stuck = silent > self.pong_within or self.stall.hangs
            if process is None:
                continue
            if stuck:
                log.error(
                    "worker %d is stuck (silent for %.0f s, in its step for %.0f s): ended",
                    process.pid, silent, self.stall.busy_for,
                )  # fmt: skip
                process.kill()
                with self._readiness.lock:
                    self._silence.heard(self._clock())
                    self.stall.begin()
                continue
            self.pings += 1
            self._listener.pinging(self.pings)
            self.ping(self.pings)

    def ping(self, number: int) -> None:
        """Ask the present worker for a sign of life, unless its pipe is full."""
        process = self._readiness.process
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
