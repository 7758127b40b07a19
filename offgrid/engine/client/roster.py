"""Which models are loaded: whether there is room for one more, which one makes room, which failed.

No thread and no waiting: all of it is called with the lock of the pool held
(:mod:`~offgrid.engine.client.pool`).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.protocol import Load
from offgrid.errors import ModelLoadFailed
from offgrid.store.catalogue import ModelEntry

log = logging.getLogger(__name__)

_TRY_AGAIN_AFTER = 300.0
"""Seconds after which a model is unloaded once more for one whose load failed, where that need not
be its file's fault."""


@dataclass(eq=False, slots=True)
class LoadedModel:
    """A model with a worker process, loaded or loading."""

    entry: ModelEntry
    """What was loaded, to see that a file was replaced."""
    client: EngineClient
    leases: int = 0
    """Requests that are about to use it, and hold no place in its queue yet."""
    leaving: bool = False
    """Whether it takes no more requests, because another model waits for its place."""
    outdated: bool = False
    """Whether its file has been replaced."""
    instead_of: str | None = None
    """The model that was unloaded for it."""

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return not (self.leaving or self.outdated or self.client.load_failure)

    @property
    def idle(self) -> bool:
        """Whether it can be unloaded: nobody uses it, and nobody waits for it to be loaded."""
        settled = self.client.ready or self.client.load_failure is not None
        return settled and self.leases == 0 and self.client.in_flight == 0


@dataclass(frozen=True, slots=True)
class RememberedFailure:
    """What is remembered of a model that could not be loaded."""

    stamp: tuple[int, ...]
    failure: LoadFailure
    until: float


class Roster:
    """The models that have a process, and what is known of those that had one.

    Args:
        settings: how models are served, and how many are loaded at most.
        clock: seconds, never going back.

    Attributes:
        failures: models that could not be loaded, by id.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures: dict[str, RememberedFailure] = {}
        self._settings = settings
        self._clock = clock
        # Least recently used first.
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._closing = 0
        """Models whose processes are just being ended: they still take memory."""
        self._sound: dict[str, tuple[int, ...]] = {}
        """Stamps of files that were loaded before: they need not be examined."""

    # --- what is loaded -----------------------------------------------------------------------

    def get(self, model_id: str) -> LoadedModel | None:
        """Return a model that is loaded or loading."""
        return self._models.get(model_id)

    def clients(self) -> list[EngineClient]:
        """Return the engines of all models that are loaded or loading."""
        return [model.client for model in self._models.values()]

    @property
    def room(self) -> bool:
        """Whether one more model may be loaded."""
        return len(self._models) + self._closing < self._settings.max_models

    @property
    def leaving(self) -> str | None:
        """The model that takes no more requests, because another one waits for its place."""
        return next((model_id for model_id, model in self._models.items() if model.leaving), None)

    def use(self, model: LoadedModel) -> None:
        """A request uses a model: it is the one that makes room last."""
        self._models.move_to_end(model.entry.id)

    def begin(self, entry: ModelEntry, instead_of: str | None = None) -> LoadedModel:
        """Start the process of a model; does not wait for it.

        Raises:
            Overloaded: the system starts no thread for it now.
        """
        client = EngineClient(
            load_command(self._settings, entry),
            name=entry.id,
            queue_size=self._settings.queue_size,
            queue_timeout=self._settings.queue_timeout,
            load_timeout=self._settings.load_timeout,
            stall_timeout=self._settings.stall_timeout,
        )
        client.start()
        model = self._models[entry.id] = LoadedModel(entry, client, instead_of=instead_of)
        return model

    def clear(self) -> list[EngineClient]:
        """Take all models out, and return their engines."""
        clients = self.clients()
        self._models.clear()
        return clients

    # --- what makes room ----------------------------------------------------------------------

    def choose_victim(self) -> LoadedModel:
        """Return an idle model, least recently used first. When none is idle, the least recently
        used one that is not loading takes no more requests, so that it will be."""
        candidates = sorted(self._models.values(), key=lambda model: not model.outdated)
        for model in candidates:
            if model.idle:
                return model
        ready = [model for model in candidates if model.client.ready]
        if ready and not any(model.leaving for model in candidates):
            ready[0].leaving = True
        return candidates[0]

    def let_stay(self) -> None:
        """The model that was to leave need not, or has been chosen: others serve again."""
        for model in self._models.values():
            model.leaving = False

    def take_out(self, model: LoadedModel) -> None:
        """Take out an idle model. It takes memory until :meth:`closed`."""
        if model.client.ready:
            self._sound[model.entry.id] = model.entry.stamp
        del self._models[model.entry.id]
        self._closing += 1

    def closed(self) -> None:
        """The process of a model that was taken out has ended."""
        self._closing -= 1

    def sound(self, entry: ModelEntry) -> bool:
        """Whether this very file has been loaded before."""
        return self._sound.get(entry.id) == entry.stamp

    # --- what failed --------------------------------------------------------------------------

    def bury(self) -> None:
        """Take out the models that have failed to load, and remember why."""
        for model_id, model in [*self._models.items()]:
            failure = model.client.load_failure
            if failure is None:
                continue
            del self._models[model_id]
            self.remember(model.entry, failure)
            if model.instead_of is not None:
                log.error(
                    "%s was unloaded for %s, which could not be loaded", model.instead_of, model_id
                )

    def remember(self, entry: ModelEntry, failure: LoadFailure) -> None:
        """A file could not be loaded, or would not be."""
        until = self._clock() + _TRY_AGAIN_AFTER
        self.failures[entry.id] = RememberedFailure(entry.stamp, failure, until)

    def check_failed(self, entry: ModelEntry) -> None:
        """Refuse a model that failed to load, as long as another try would be in vain or would
        cost another model its place.

        Raises:
            ModelLoadFailed: so it is.
        """
        known = self.failures.get(entry.id)
        if known is None:
            return
        if known.stamp != entry.stamp:
            del self.failures[entry.id]
        elif known.failure.lasting or (not self.room and self._clock() < known.until):
            raise ModelLoadFailed(known.failure.message, "model")


def load_command(settings: Settings, entry: ModelEntry) -> Load:
    """Return what the worker of a model is told to serve."""
    return Load(
        path=str(entry.path),
        ctx_size=settings.ctx_size,
        parallel=settings.parallel,
        batch_size=settings.batch_size,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        use_mmap=settings.use_mmap,
        use_mlock=settings.use_mlock,
        projector=None if entry.projector is None else str(entry.projector),
    )
