"""Unloads the models that are idle for longer than their ``keep_alive``, those that a request asked
to unload, and those whose file was replaced or removed."""

from __future__ import annotations

import logging
import threading

from offgrid.config import shown_lifetime
from offgrid.engine.client.process import start_thread
from offgrid.engine.client.roster import LoadedModel, Roster
from offgrid.errors import Overloaded

log = logging.getLogger(__name__)

_LOOK = 0.5
"""Seconds between two looks at the loaded models, as long as one of them may be unloaded."""


class Keeper:
    """A thread that ends the workers of models that are due; it starts when it is first needed.

    A model is due only while no request uses it, and it is taken out of the roster under the lock
    of the pool. So a request that comes until then keeps its model, and a later one loads it anew.

    Args:
        roster: the loaded models.
        changed: the condition of the pool, whose lock guards the roster.

    Attributes:
        ending: ids of the models whose workers are being ended.
    """

    def __init__(self, roster: Roster, changed: threading.Condition) -> None:
        self.ending: list[str] = []
        self._roster = roster
        self._changed = changed
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread if it does not run. Called with the lock held.

        Raises:
            Overloaded: the system cannot start a thread now.
        """
        if self._thread is None and not self._stopped:
            thread = threading.Thread(target=self._run, name="keeper", daemon=True)
            start_thread(thread)
            self._thread = thread

    def watch(self) -> None:
        """Start the thread if a loaded model may become due. If that fails, the next call tries
        again. Called with the lock held."""
        if self._roster.watched:
            try:
                self.start()
            except Overloaded as ex:
                log.error("idle models stay loaded: %s", ex)

    def take_out(self, model: LoadedModel) -> None:
        """Take a model out of the roster; :meth:`end` must follow. Called with the lock held."""
        self._roster.take_out(model)
        self.ending.append(model.entry.id)

    def end(self, model: LoadedModel) -> None:
        """End the worker of a model that was taken out. Called without the lock."""
        try:
            model.client.close()
        finally:
            with self._changed:
                self.ending.remove(model.entry.id)
                self._roster.closed(model)
                self._changed.notify_all()

    def stop(self) -> None:
        """End the thread. Called with the lock held."""
        self._stopped = True
        self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                model = None
                while not self._stopped and (model := self._roster.due()) is None:
                    self._changed.wait(_LOOK if self._roster.watched else None)
                if model is None:
                    return
                self.take_out(model)
            tell(model)
            try:
                self.end(model)
            except Exception:
                log.exception("the worker of %s could not be ended", model.entry.id)


def tell(model: LoadedModel) -> None:
    """Log why a model is unloaded, if not for another one."""
    if model.outdated:
        log.info("the file of %s was replaced or removed; unloading it", model.entry.id)
    elif model.unwanted:
        log.info("unloading %s, as a request asked", model.entry.id)
    else:
        log.info("unloading %s, unused for %s", model.entry.id, shown_lifetime(model.keep_alive))
