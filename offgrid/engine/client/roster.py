"""Which models are loaded: whether there is room for one more, which one makes room, which failed.

Nothing here waits, and all of it is called with the lock of the pool held
(:mod:`~offgrid.engine.client.pool`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from offgrid.config import FOREVER, OVERRIDES, Settings
from offgrid.engine.client.budget import Budget, budget_limit, file_size
from offgrid.engine.client.client import Defaults, EngineClient
from offgrid.engine.client.fit import Candidate, Fit, measure_loaded
from offgrid.engine.client.lenders import Lenders
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.client.spread import Lent, place_of
from offgrid.engine.protocol.commands import Adapter, Load
from offgrid.errors import ModelLoadFailed
from offgrid.store.description import Description
from offgrid.store.hashes import Hashes
from offgrid.store.profiles import sampling_defaults
from offgrid.store.survey import ModelEntry

log = logging.getLogger(__name__)

_TRY_AGAIN_AFTER = 300.0
"""Seconds after a failed load, for a reason other than the file, until another model may again be
unloaded for that model, and until a model that took all memory is loaded again."""
_RETURN_SECONDS = 10.0
"""Most seconds until a machine has freed what a model had borrowed there. It kills a process, and
the system needs about a second for 10 GB."""
_ASK_AGAIN = 0.5
"""Seconds after which machines that may be freeing memory are asked again."""


@dataclass(eq=False, slots=True)
class LoadedModel:
    """A model with a worker process, loaded or loading."""

    entry: ModelEntry
    """The model entry that was loaded, to notice when its file is replaced."""
    client: EngineClient
    candidate: Candidate
    """What decided how it is loaded."""
    placed: Fit
    """How it is loaded, and what that needs at most: whatever its worker chooses."""
    keep_alive: float = FOREVER
    """Seconds without a request after which it is unloaded."""
    idle_since: float | None = None
    """When it was first seen idle since its last use."""
    leases: int = 0
    """Requests that are about to use it, and have no places in its queue yet."""
    leaving: bool = False
    """Whether it takes no more requests, because it is to be unloaded for another model."""
    outdated: bool = False
    """Whether its file has been replaced or removed."""
    unwanted: bool = False
    """Whether a request asked to unload it."""
    instead_of: str | None = None
    """The model that was unloaded for it."""
    pin: bool = False
    """Whether the settings or a request say that it stays loaded."""

    @property
    def fit(self) -> Fit:
        """How it is loaded, and what that needs. A worker that is ready has chosen between flash
        attention and scores, and will not take the memory of the other way."""
        if not self.client.ready:
            return self.placed
        return measure_loaded(self.candidate, self.placed, self.client.info.flash_attention)

    @property
    def pid(self) -> int | None:
        """The process id of its worker; None if there is none."""
        return self.client.pid

    @property
    def ready_since(self) -> float | None:
        """When it was loaded, in monotonic seconds; None while it loads."""
        return self.client.ready_since

    @property
    def gone(self) -> bool:
        """Whether it takes no request any more, for good."""
        return self.outdated or self.unwanted

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return not (self.leaving or self.gone or self.client.load_failure)

    @property
    def pinned(self) -> bool:
        """Whether it stays loaded, unless a request asks to unload it or its file is replaced."""
        return self.pin and not self.gone

    @property
    def unused(self) -> bool:
        """Whether no request uses it or waits for it."""
        return self.leases == 0 and self.client.in_flight == 0

    @property
    def idle(self) -> bool:
        """Whether it can be unloaded: it is loaded or has failed to, and no request uses it."""
        settled = self.client.ready or self.client.load_failure is not None
        return settled and self.unused


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
        lenders: know what other machines lend.
        clock: monotonic seconds.

    Attributes:
        failures: models that could not be loaded, by id.
        budget: how much memory models may take.
    """

    def __init__(
        self,
        settings: Settings,
        describe: Callable[[ModelEntry], Description],
        lenders: Lenders,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lenders = lenders
        self.budget = Budget(budget_limit(settings))
        self._describe = describe
        self.failures: dict[str, RememberedFailure] = {}
        self._settings = settings
        self._clock = clock
        # Least recently used first.
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._closing = 0
        """Number of models whose processes are being ended and still use memory."""
        self._returned: dict[tuple[object, ...], float] = {}
        """Where models had borrowed memory that have ended -> when the last of them did."""
        self._sound: dict[str, tuple[int, ...]] = {}
        """Stamps of files that were loaded before and need not be examined."""

    def take(self, settings: Settings) -> None:
        """Use new settings: the limits for all models, the rest for those that are loaded from now
        on. A model's ``keep_alive`` stays if a request has set it."""
        before, self._settings = self._settings, settings
        for model in self._models.values():
            model.client.queue_timeout = settings.queue_timeout
            model.client.supervisor.watchdog.stall.limit = settings.stall_timeout
            if model.entry.own.keep_alive is None and model.keep_alive == before.keep_alive:
                model.keep_alive = settings.keep_alive

    # --- loaded models ------------------------------------------------------------------------

    def get(self, model_id: str) -> LoadedModel | None:
        """Return a model that is loaded or loading."""
        return self._models.get(model_id)

    def clients(self) -> list[EngineClient]:
        """Return the engine clients of all models that are loaded or loading."""
        return [model.client for model in self._models.values()]

    def snapshot(self) -> list[EngineClient]:
        """Return the same as :meth:`clients`, without the lock."""
        while True:
            try:
                return self.clients()
            except RuntimeError:  # a model was added or removed meanwhile
                continue

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
        model.idle_since = None

    def place(self, entry: ModelEntry) -> Fit | None:
        """Return how a model can be loaded now; None if others must be unloaded first.

        Raises:
            ModelLoadFailed: its file is damaged, or it does not fit into memory, even if only
                pinned models are loaded.
        """
        self.check_file(entry)
        candidate = self._candidate(entry)
        fit = self.budget.place(
            candidate, self._models.values(), self._closing > 0, self._returning
        )
        return fit if self.room else None

    def check_file(self, entry: ModelEntry) -> None:
        """Refuse a model whose file is damaged. llama.cpp would only say that it failed.

        Raises:
            ModelLoadFailed: the message says what is wrong with the file.
        """
        problem = self._describe(entry).problem
        if problem is not None:
            raise ModelLoadFailed(f"The model {entry.id} cannot be loaded: {problem}.", "model")

    def fit(self, entry: ModelEntry) -> Fit:
        """Return how a model was loaded; for others, how they would be loaded now, or would have
        to be, if they do not fit."""
        known = self._models.get(entry.id)
        if known is not None:
            return known.fit
        candidate = self._candidate(entry)
        return self.budget.preview(candidate, self._models.values())

    def _candidate(self, entry: ModelEntry) -> Candidate:
        description = self._describe(entry)
        # What was lent before the settings have changed is not used any more.
        lent = self.lenders.lent if self.borrows else ()
        return candidate_of(self._settings, entry, description, lent)

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
            structs.replace(fit.load, sha256=self._known_hash(entry)),
            name=entry.id,
            chat_template=entry.template,
            defaults=self.defaults(entry),
            pinned=entry.pinned,
            needs=fit.needs,
            queue_size=self._settings.queue_size,
            queue_timeout=self._settings.queue_timeout,
            load_timeout=self._settings.load_timeout,
            stall_timeout=self._settings.stall_timeout,
        )
        client.start()
        self.failures.pop(entry.id, None)
        log.info("loading %s: %s", entry.id, fit)
        own = entry.own.keep_alive
        keep_alive = self._settings.keep_alive if own is None else own
        candidate = self._candidate(entry)
        model = LoadedModel(
            entry, client, candidate, fit, keep_alive, instead_of=instead_of, pin=entry.pinned
        )
        self._models[entry.id] = model
        return model

    def defaults(self, entry: ModelEntry) -> Defaults:
        """Return what requests to a model get that do not set it themselves."""
        own = entry.own
        budget = own.reasoning_budget
        return Defaults(
            own.system_prompt,
            sampling_defaults(own),
            self._settings.reasoning_budget if budget is None else budget,
        )

    def _known_hash(self, entry: ModelEntry) -> str:
        """Return the SHA-256 of a model's file if it is known, else an empty text."""
        hashes = Hashes.beside(self._settings.responses_file)
        try:
            return hashes.get(entry.path) or ""
        finally:
            hashes.close()

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
            None if all models are pinned, or there is none.
        """
        loose = [model for model in self._models.values() if not model.pinned]
        candidates = sorted(loose, key=lambda model: model.serves or model.leaving)
        if not candidates:
            return None
        for model in candidates:
            if model.idle:
                return model
        ready = [model for model in candidates if model.client.ready]
        if ready and not any(model.leaving for model in candidates):
            ready[0].leaving = True
        return candidates[0]

    @property
    def stuck(self) -> bool:
        """Whether models are loaded, and none of them is ever unloaded for another one."""
        return bool(self._models) and all(model.pinned for model in self._models.values())

    @property
    def seconds_to_room(self) -> float | None:
        """In about how many seconds the first loaded model is idle and can be unloaded for another
        one; None if that is unknown."""
        loose = [model.client for model in self._models.values() if not model.pinned]
        known = [client.seconds_to_idle for client in loose]
        return min((seconds for seconds in known if seconds is not None), default=None)

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

    def closed(self, model: LoadedModel) -> None:
        """Note that the process of a removed model has ended."""
        self._closing -= 1
        self._give_back(model)

    @property
    def closing(self) -> bool:
        """Whether processes of removed models are being ended, here or on machines that lend."""
        return self._closing > 0 or self._returning

    # --- what other machines lend -------------------------------------------------------------

    @property
    def borrows(self) -> bool:
        """Whether models may use memory of other machines."""
        return bool(self._settings.rpc_servers) and self._settings.rpc_layers != 0

    @property
    def must_ask(self) -> bool:
        """Whether other machines must be asked what they lend before a model is placed."""
        return self.borrows and not self.lenders.knows(self.lent_since)

    @property
    def lent_since(self) -> float:
        """Since when the machines that lend must have been asked, in monotonic seconds: since the
        last model was loaded or unloaded that has borrowed from them."""
        times = [one.ready_since for one in self._models.values() if one.placed.borrowed]
        known = [time for time in times if time is not None]
        if self._returning:
            known.append(self._clock() - _ASK_AGAIN)
        return max([*known, *self._returned.values()], default=-math.inf)

    @property
    def _returning(self) -> bool:
        """Whether a machine may still be freeing what a model had borrowed."""
        began = self._clock() - _RETURN_SECONDS
        return self.borrows and any(
            self._returned.get(place_of(one.server), -math.inf) > began
            for one in self.lenders.lent
            if not one.problem
        )

    def _give_back(self, model: LoadedModel) -> None:
        """Note that the process of a model has ended which may have borrowed memory."""
        for one in model.placed.borrowed:
            self._returned[place_of(one.server)] = self._clock()

    def time_left(self, model: LoadedModel) -> float:
        """Return after how many seconds without requests a model is unloaded."""
        if model.pinned:
            return FOREVER
        idle = 0.0 if model.idle_since is None else self._clock() - model.idle_since
        return max(0.0, model.keep_alive - idle)

    # --- models that are due ------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether a model may become due without a further request."""
        return any(
            model.gone or (model.keep_alive < FOREVER and not model.pinned)
            for model in self._models.values()
        )

    def due(self) -> LoadedModel | None:
        """Return a model that is to be unloaded now: because it was idle for its ``keep_alive``, or
        because a request asked for that or its file was replaced, and no request uses it."""
        self.bury()
        for model in self._models.values():
            if model.gone:
                due = model.unused
            else:
                due = self._idle_for(model) >= model.keep_alive and not model.pinned
            if due:
                return model
        return None

    def _idle_for(self, model: LoadedModel) -> float:
        """Return how long a model has been idle, in seconds, as seen by the calls of this method;
        less than 0 if it is not idle."""
        if not model.idle:
            return -1.0
        if model.idle_since is None:
            model.idle_since = self._clock()
        return self._clock() - model.idle_since

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
            self._give_back(model)
            self.remember(model.entry, failure)
            if model.instead_of is not None:
                log.error(
                    "%s was unloaded for %s, which could not be loaded", model.instead_of, model_id
                )

    def note(self, entry: ModelEntry, message: str) -> None:
        """Let the status of a model say why it is not loaded. No request is refused for that."""
        known = self.failures.get(entry.id)
        if known is None or known.stamp != entry.stamp or not known.until:
            failure = LoadFailure(message, lasting=False)
            self.failures[entry.id] = RememberedFailure(entry.stamp, failure, until=0.0)

    def remember(self, entry: ModelEntry, failure: LoadFailure) -> None:
        """Remember that a model failed to load, or would fail according to its examination."""
        until = self._clock() + _TRY_AGAIN_AFTER
        self.failures[entry.id] = RememberedFailure(entry.stamp, failure, until)

    def may_return(self, model_id: str) -> bool:
        """Return whether a model is not loaded because its load has failed, for a reason that may
        have passed: a machine that lends may be back."""
        known = self.failures.get(model_id)
        if known is None or model_id in self._models:
            return False
        return not (known.failure.lasting or known.failure.costly)

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
    own = entry.own

    def chosen(name: str) -> Any:
        value = getattr(own, name)
        return getattr(settings, name) if value is None else value

    return Load(
        path=str(entry.path),
        ctx_size=chosen("ctx_size"),
        parallel=chosen("parallel"),
        batch_size=chosen("batch_size"),
        threads=chosen("threads"),
        gpu_layers=chosen("gpu_layers"),
        flash_attention=chosen("flash_attention"),
        kv_type_k=chosen("kv_type_k"),
        kv_type_v=chosen("kv_type_v"),
        use_mmap=chosen("use_mmap"),
        use_mlock=chosen("use_mlock"),
        swa_full=settings.swa_full,
        checkpoints_mb=settings.checkpoints_mb,
        drafts=chosen("drafts"),
        open_objects=settings.open_objects,
        projector=None if entry.projector is None else str(entry.projector),
        adapters=tuple(Adapter(str(lora.path), lora.scale) for lora in own.lora),
        draft_model=str(entry.draft[0]) if entry.draft and chosen("drafts") else None,
        cache_ram=_cache_ram(settings),
        cache_dir=str(settings.cache_dir),
        cache_disk=settings.cache_disk_mb,
        share_prefixes=settings.share_prefixes == "all",
        core_dumps=settings.core_dumps,
        rpc_library="" if settings.rpc_library is None else str(settings.rpc_library),
    )


def _cache_ram(settings: Settings) -> int:
    """Return the MiB of memory for saved prefixes; -1 if the fit decides it. A memory budget is
    for models: what one of them does not need is left for the next one."""
    left_open = settings.cache_ram_mb < 0 < settings.memory_budget
    return 0 if left_open else settings.cache_ram_mb


def candidate_of(
    settings: Settings, entry: ModelEntry, description: Description, lent: tuple[Lent, ...] = ()
) -> Candidate:
    """Return a model as its settings say, before it is made to fit into memory. ``lent`` is what
    other machines lend."""
    load = load_command(settings, entry)
    return Candidate(
        load,
        settings.given | {name for name in OVERRIDES if getattr(entry.own, name) is not None},
        description.sizes,
        projector=file_size(entry.projector),
        adapters=sum(map(file_size, entry.adapters)),
        draft=description.draft_sizes if load.draft_model else None,
        name=entry.id,
        lent=lent,
        remote_layers=settings.rpc_layers,
    )
