"""Whether the worker of a model serves: the supervisor sets it, and requests wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from offgrid.engine.client.pending import POLL, ClientGone
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.pulse import Pulse
from offgrid.engine.client.shares import Shares
from offgrid.engine.client.turnover import retry_after
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.errors import ModelLoadFailed, Overloaded

RETRY_LOADED = 5
"""Seconds after which a request for a model that is loading, or waits for room, should be tried
again, if nothing tells how long that takes."""


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model is not loaded. ``lasting``: it will fail until its file is replaced. ``costly``:
    another try soon would take all memory of the machine again."""

    message: str
    lasting: bool
    costly: bool = False


class Readiness:
    """The state of one model's worker, with the lock that all parts of an engine client share.

    One lock guards the worker, the places in the queue and the requests, so that a request is
    registered for the worker that is ready at that moment, and never after the client is closed.

    Args:
        load_timeout: most seconds that loading may take.
        most_waiting: one more than this many requests of one caller may wait for the model to be
            loaded.
        chat_template: replaces the templates of the model's file; None keeps them.
        name: the model's name in messages.

    Attributes:
        lock: guards this object, the places and the requests. Never held while a process is
            started, written to or waited for.
        changed: notified when a waiting request should check again. Its lock is ``lock``.
        process: the current worker; None while there is none.
        ready: whether the model is loaded and ``process`` serves.
        ready_since: when it was loaded, in monotonic seconds; None while it is not ready.
        progress: the part of the weights that the current worker has loaded, 0 to 1.
        threads: numbers of threads that the worker uses for decode and for prefill; empty until
            it has said so.
        pulse: what the worker has last said about itself.
        info: the loaded model; None until the first worker is ready, and kept when that ends.
        load_failure: why the model could not be loaded, once that is final; only a new client
            tries again.
        draining: whether the server is stopping and takes no more requests.
        closed: whether no worker is needed any more.
    """

    def __init__(
        self,
        load_timeout: float,
        most_waiting: int,
        chat_template: str | None = None,
        name: str = "",
    ) -> None:
        # Reentrant: an abandoned stream is cancelled when it is collected as garbage, which may
        # happen at any line of any thread, also while that thread holds the lock.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.process: WorkerProcess | None = None
        self.ready = False
        self.ready_since: float | None = None
        self.progress = 0.0
        self.threads: tuple[int, ...] = ()
        self.pulse = Pulse()
        self.info: ModelInfo | None = None
        self.load_failure: LoadFailure | None = None
        self.draining = False
        self.closed = False
        self._load_timeout = load_timeout
        self._chat_template = chat_template
        self._name = name
        self._began = time.monotonic()
        self._waiting = Shares(most_waiting + 1, most_waiting + 1)

    # --- for the supervisor and the client ----------------------------------------------------

    def begin(self, process: WorkerProcess) -> None:
        """A worker has been started and loads the model."""
        with self.lock:
            self.process = process
            self.progress = 0.0
            self._began = time.monotonic()

    def serve(self, info: ModelInfo) -> None:
        """The worker has loaded the model."""
        if self._chat_template is not None and info.generates:
            info = structs.replace(info, chat_template=self._chat_template, chat_templates={})
        with self.changed:
            self.info = info
            self.progress = 1.0
            self.ready = True
            self.ready_since = time.monotonic()
            self.changed.notify_all()

    def end(self) -> bool:
        """The worker has ended; return whether it was ready."""
        with self.changed:
            was_ready, self.ready = self.ready, False
            self.ready_since = None
            # First, for readers without the lock: what it said must not seem to be the next one's.
            self.pulse.end()
            self.process = None
        return was_ready

    def give_up(self, failure: LoadFailure) -> None:
        """The model cannot be loaded, and no further process is started for it."""
        with self.changed:
            self.load_failure = failure
            self.changed.notify_all()

    def close(self) -> None:
        """No worker is needed any more. Waiting requests stop waiting."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    # --- for requests -------------------------------------------------------------------------

    def wait(
        self,
        alive: Callable[[], bool] = lambda: True,
        timeout: float | None = None,
        owner: str = "",
    ) -> ModelInfo:
        """Wait until the model is loaded.

        Args:
            alive: called while waiting; returns whether the client is still connected.
            timeout: most seconds to wait, if less than ``load_timeout``.
            owner: the caller.

        Raises:
            ModelLoadFailed: llama.cpp cannot load it.
            Overloaded: it takes longer than ``timeout`` or ``load_timeout``, too many requests
                already wait for it, the model was unloaded, or the server is stopping.
            ClientGone: ``alive`` returned False.
        """
        limit = self._load_timeout if timeout is None else min(timeout, self._load_timeout)
        deadline = time.monotonic() + limit
        with self.changed:
            if not self.ready and self._waiting.missing(owner, 1):
                raise self._loading("; too many requests already wait for it")
            self._waiting.add(owner, 1)
            try:
                return self._wait(deadline, alive)
            finally:
                self._waiting.give_back(owner, 1)

    def _wait(self, deadline: float, alive: Callable[[], bool]) -> ModelInfo:
        while not self.ready:
            if self.load_failure is not None:
                raise ModelLoadFailed(self.load_failure.message, "model")
            if self.closed:
                raise self.farewell()
            if time.monotonic() >= deadline:
                raise self._loading()
            self.changed.wait(POLL)
            if not alive():
                raise ClientGone
        assert self.info is not None
        return self.info

    def _loading(self, more: str = "") -> Overloaded:
        """Return the error for a request that does not wait any longer."""
        model = f"The model {self._name}" if self._name else "The model"
        return Overloaded(
            f"{model} is loading, {round(100 * self.progress)} %{more}; try again later.",
            code="model_loading",
            retry_after=retry_after(self.seconds_left, RETRY_LOADED),
        )

    @property
    def seconds_left(self) -> float | None:
        """About how many seconds the rest of loading takes, judged by the time until now; None if
        the progress does not tell."""
        progress = self.progress
        if not 0.0 < progress < 1.0:
            return None
        return (time.monotonic() - self._began) * (1.0 - progress) / progress

    def check_open(self) -> None:
        """Refuse a new request if the server is stopping or the model was unloaded.

        Raises:
            Overloaded: the request is refused.
        """
        if self.draining or self.closed:
            raise self.farewell()

    def farewell(self) -> Overloaded:
        """Return the error with which a draining or closed client refuses requests."""
        if self.draining:
            return Overloaded("The server is stopping.", code="server_shutting_down")
        return Overloaded("The model has just been unloaded; try again.", code="model_loading")
