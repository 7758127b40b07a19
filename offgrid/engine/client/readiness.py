"""Whether the worker of a model serves: the supervisor sets it, and requests wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from offgrid.engine.client.pending import POLL, ClientGone
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.protocol import ModelInfo
from offgrid.errors import ModelLoadFailed, Overloaded


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
        most_waiting: one more than this many requests may wait for the model to be loaded.
        chat_template: replaces the templates of the model's file; None keeps them.

    Attributes:
        lock: guards this object, the places and the requests. Never held while a process is
            started, written to or waited for.
        changed: notified when a waiting request should check again. Its lock is ``lock``.
        process: the current worker; None while there is none.
        ready: whether the model is loaded and ``process`` serves.
        info: the loaded model; None until the first worker is ready, and kept when that ends.
        load_failure: why the model could not be loaded, once that is final; only a new client
            tries again.
        draining: whether the server is stopping and takes no more requests.
        closed: whether no worker is needed any more.
    """

    def __init__(
        self, load_timeout: float, most_waiting: int, chat_template: str | None = None
    ) -> None:
        # Reentrant: an abandoned stream is cancelled when it is collected as garbage, which may
        # happen at any line of any thread, also while that thread holds the lock.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.process: WorkerProcess | None = None
        self.ready = False
        self.info: ModelInfo | None = None
        self.load_failure: LoadFailure | None = None
        self.draining = False
        self.closed = False
        self._load_timeout = load_timeout
        self._most_waiting = most_waiting
        self._chat_template = chat_template
        self._waiting = 0

    # --- for the supervisor and the client ----------------------------------------------------

    def begin(self, process: WorkerProcess) -> None:
        """A worker has been started and loads the model."""
        with self.lock:
            self.process = process

    def serve(self, info: ModelInfo) -> None:
        """The worker has loaded the model."""
        if self._chat_template is not None and info.generates:
            info = structs.replace(info, chat_template=self._chat_template, chat_templates={})
        with self.changed:
            self.info = info
            self.ready = True
            self.changed.notify_all()

    def end(self) -> bool:
        """The worker has ended; return whether it was ready."""
        with self.changed:
            was_ready, self.ready = self.ready, False
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

    def wait(self, alive: Callable[[], bool] = lambda: True) -> ModelInfo:
        """Wait until the model is loaded.

        Raises:
            ModelLoadFailed: llama.cpp cannot load it.
            Overloaded: it takes longer than ``load_timeout``, too many requests already wait for
                it, the model was unloaded, or the server is stopping.
            ClientGone: ``alive`` returned False.
        """
        deadline = time.monotonic() + self._load_timeout
        with self.changed:
            if not self.ready and self._waiting > self._most_waiting:
                raise Overloaded(
                    "The model is still loading and the queue is full.",
                    code="model_loading",
                    retry_after=5,
                )
            self._waiting += 1
            try:
                return self._wait(deadline, alive)
            finally:
                self._waiting -= 1

    def _wait(self, deadline: float, alive: Callable[[], bool]) -> ModelInfo:
        while not self.ready:
            if self.load_failure is not None:
                raise ModelLoadFailed(self.load_failure.message, "model")
            if self.closed:
                raise self.farewell()
            if time.monotonic() > deadline:
                raise Overloaded("The model is still loading.", code="model_loading", retry_after=5)
            self.changed.wait(POLL)
            if not alive():
                raise ClientGone
        assert self.info is not None
        return self.info

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
