"""Which models are loaded: whether there is room for one more, which one makes room, which failed.

Nothing here waits, and all of it is called with the lock of the pool held
(:mod:`~offgrid.engine.client.pool`).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.config import Settings
from offgrid.engine.client.budget import Budget, budget_limit, file_size
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.fit import Candidate, Fit
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.protocol import Load
from offgrid.errors import ModelLoadFailed
from offgrid.store.description import Description
from offgrid.store.survey import ModelEntry

log = logging.getLogger(__name__)

_TRY_AGAIN_AFTER = 300.0
"""Seconds after a failed load, for a reason other than the file, until another model may again be
unloaded for that model, and until a model that took all memory is loaded again."""


@dataclass(eq=False, slots=True)
class LoadedModel:
    """A model with a worker process, loaded or loading."""

    entry: ModelEntry
    """The model entry that was loaded, to notice when its file is replaced."""
    client: EngineClient
    fit: Fit
    """How it was loaded, and what that needs."""
    leases: int = 0
    """Requests that are about to use it, and have no places in its queue yet."""
    leaving: bool = False
    """Whether it takes no more requests, because it is to be unloaded for another model."""
    outdated: bool = False
    """Whether its file has been replaced."""
    instead_of: str | None = None
    """The model that was unloaded for it."""

    @property
    def pid(self) -> int | None:
        """The process id of its worker; None if there is none."""
        return self.client.pid

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return not (self.leaving or self.outdated or self.client.load_failure)

    @property
    def idle(self) -> bool:
        """Whether it can be unloaded: it is loaded or has failed to, and no request uses it."""
        settled = self.client.ready or self.client.load_failure is not None
        return settled and self.leases == 0 and self.client.in_flight == 0


@dataclass(frozen=True, slots=True)
class RememberedFailure:
    """Why a model could not be loaded: its file's stamp, and until when no other is unloaded for it
    (``until``)."""

    stamp: tuple[int, ...]
    failure: LoadFailure
    until: float


class Roster:
    """The models that have a worker process, and what is known of models that had one.

    Args:
        settings: how models are served, and how many may be loaded.
        describe: returns what the files of a model say about it, without reading them again.
        clock: monotonic seconds.

    Attributes:
        failures: models that could not be loaded, by id.
        budget: how much memory models may take.
    """

    def __init__(
        self,
        settings: Settings,
        describe: Callable[[ModelEntry], Description],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = Budget(budget_limit(settings))
        self._describe = describe
        self.failures: dict[str, RememberedFailure] = {}
        self._settings = settings
        self._clock = clock
        # Least recently used first.
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._closing = 0
        """Number of models whose processes are being ended and still use memory."""
        self._sound: dict[str, tuple[int, ...]] = {}
        """Stamps of files that were loaded before and need not be examined."""

    # --- loaded models ------------------------------------------------------------------------

    def get(self, model_id: str) -> LoadedModel | None:
        """Return a model that is loaded or loading."""
        return self._models.get(model_id)

    def clients(self) -> list[EngineClient]:
        """Return the engine clients of all models that are loaded or loading."""
        return [model.client for model in self._models.values()]

    @property
    def room(self) -> bool:
        """Whether one more model may be loaded, if there is memory for it."""
        return len(self._models) + self._closing < self._settings.max_models

    @property
    def leaving(self) -> str | None:
        """The model that takes no more requests, because it is to be unloaded for another one."""
        return next((model_id for model_id, model in self._models.items() if model.leaving), None)

    def use(self, model: LoadedModel) -> None:
        """Note that a request uses a model: it becomes the most recently used one."""
        self._models.move_to_end(model.entry.id)

    def place(self, entry: ModelEntry) -> Fit | None:
        """Return how a model can be loaded now; None if others must be unloaded first.

        Raises:
            ModelLoadFailed: it does not fit into memory, even if no other model is loaded.
        """
        candidate = candidate_of(self._settings, entry, self._describe(entry))
        fit = self.budget.place(candidate, self._models.values(), self._closing > 0)
        return fit if self.room else None

    def fit(self, entry: ModelEntry) -> Fit:
        """Return how a model was loaded; for others, how they would be loaded now, or would have
        to be, if they do not fit."""
        known = self._models.get(entry.id)
        if known is not None:
            return known.fit
        candidate = candidate_of(self._settings, entry, self._describe(entry))
        return self.budget.preview(candidate, self._models.values())

    def begin(self, entry: ModelEntry, fit: Fit, instead_of: str | None = None) -> LoadedModel:
        """Start the process of a model, without waiting for it.

        Args:
            entry: the model.
            fit: how it is loaded, from :meth:`place`.
            instead_of: the model that was unloaded for it.

        Raises:
            Overloaded: the system cannot start a thread for it now.
        """
        client = EngineClient(
            fit.load,
            name=entry.id,
            chat_template=entry.template,
            queue_size=self._settings.queue_size,
            queue_timeout=self._settings.queue_timeout,
            load_timeout=self._settings.load_timeout,
            stall_timeout=self._settings.stall_timeout,
        )
        client.start()
        log.info("loading %s: %s", entry.id, fit)
        model = self._models[entry.id] = LoadedModel(entry, client, fit, instead_of=instead_of)
        return model

    def clear(self) -> list[EngineClient]:
        """Remove all models, and return their engine clients."""
        clients = self.clients()
        self._models.clear()
        return clients

    # --- making room --------------------------------------------------------------------------

    def choose_victim(self) -> LoadedModel | None:
        """Return the model to unload: outdated ones first, then the least recently used.

        Returns:
            An idle model if there is one. If none is idle, the first loaded one takes no more
            requests from now on, so that it becomes idle; a model that is not idle is returned.
            None if no model is loaded.
        """
        candidates = sorted(self._models.values(), key=lambda model: not model.outdated)
        for model in candidates:
            if model.idle:
                return model
        ready = [model for model in candidates if model.client.ready]
        if ready and not any(model.leaving for model in candidates):
            ready[0].leaving = True
        return candidates[0] if candidates else None

    def let_stay(self) -> None:
        """Let all models take requests again: room was found, or is not needed any more."""
        for model in self._models.values():
            model.leaving = False

    def take_out(self, model: LoadedModel) -> None:
        """Remove an idle model. It counts as using memory until :meth:`closed`."""
        if model.client.ready:
            self._sound[model.entry.id] = model.entry.stamp
        del self._models[model.entry.id]
        self._closing += 1

    def closed(self) -> None:
        """Note that the process of a removed model has ended."""
        self._closing -= 1

    def sound(self, entry: ModelEntry) -> bool:
        """Return whether this file, unchanged, was loaded before."""
        return self._sound.get(entry.id) == entry.stamp

    # --- failures -----------------------------------------------------------------------------

    def bury(self) -> None:
        """Remove the models that failed to load, and remember why."""
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
        """Remember that a model failed to load, or would fail according to its examination."""
        until = self._clock() + _TRY_AGAIN_AFTER
        self.failures[entry.id] = RememberedFailure(entry.stamp, failure, until)

    def check_failed(self, entry: ModelEntry) -> None:
        """Refuse a model that failed to load, as long as another try would fail again, or would
        need another model to be unloaded too soon after the failure.

        Raises:
            ModelLoadFailed: the model is refused.
        """
        known = self.failures.get(entry.id)
        if known is None:
            return
        if known.stamp != entry.stamp:
            del self.failures[entry.id]
            return
        soon = self._clock() < known.until and (known.failure.costly or not self.room)
        if known.failure.lasting or soon:
            raise ModelLoadFailed(known.failure.message, "model")


def load_command(settings: Settings, entry: ModelEntry) -> Load:
    """Return the first command for the worker of a model."""
    return Load(
        path=str(entry.path),
        ctx_size=settings.ctx_size,
        parallel=settings.parallel,
        batch_size=settings.batch_size,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        use_mmap=settings.use_mmap,
        use_mlock=settings.use_mlock,
        open_objects=settings.open_objects,
        projector=None if entry.projector is None else str(entry.projector),
    )


def candidate_of(settings: Settings, entry: ModelEntry, description: Description) -> Candidate:
    """Return a model as its settings say, before it is made to fit into memory."""
    return Candidate(
        load_command(settings, entry),
        settings.given,
        description.sizes,
        projector=file_size(entry.projector),
        name=entry.id,
    )
