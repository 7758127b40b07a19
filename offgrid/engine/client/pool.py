"""Provides the engine client of each model. A model is loaded when it is first requested, and
unloaded when no request has come for its ``keep_alive``.

At most ``max_models`` are loaded, and only as many as fit into memory. When another one is
requested, its file is examined first. Then least recently used idle models are unloaded for it,
until it fits. If none is idle, the least recently used loaded model takes no more requests until it
is. Loads happen in the order in which they were requested, each after the processes of the unloaded
models have ended. A model stays while it is loading and while a request is about to use it.

:mod:`~offgrid.engine.client.roster` knows which models are loaded and which one makes room.
:mod:`~offgrid.engine.client.keeper` unloads models. This module has the requests that use a model
or wait for one, and the thread that loads models.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.config import FOREVER, Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.examination import Examination
from offgrid.engine.client.fit import Fit
from offgrid.engine.client.keeper import Keeper, tell
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.process import start_thread
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.client.roster import LoadedModel, Roster, load_command
from offgrid.engine.client.use import UNLOADED, USUAL, ModelStatus, Use
from offgrid.engine.protocol import Load, ModelInfo
from offgrid.errors import (
    EngineFault,
    InvalidParameter,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    RequestError,
)
from offgrid.store.catalogue import Catalogue
from offgrid.store.survey import ModelEntry

log = logging.getLogger(__name__)

_POLL = 0.05
"""Interval, in seconds, of checks whether a client is still connected or a model is idle."""
_JOIN_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Wanted:
    """A model that waits to be loaded, and the number of requests that wait for it.

    ``until``: it is loaded also without a request that waits, if there is room until then.
    ``keep_alive``: seconds, from a request that did not wait; None for those of the settings.
    """

    id: str
    waiters: int = 0
    until: float = 0.0
    keep_alive: float | None = None
    loaded: LoadedModel | None = None
    """Set when loading begins; each waiting request holds a lease from then on."""
    error: RequestError | None = None
    """Set when it cannot be loaded."""

    @property
    def wanted(self) -> bool:
        """Whether it is still to be loaded."""
        return self.waiters > 0 or time.monotonic() < self.until


class _Visit(threading.local):
    """The models leased by the request that the calling thread serves; None outside a request."""

    loaded: list[LoadedModel] | None = None


class EnginePool:
    """Provides the engine client of a model, loading the model first if necessary.

    Args:
        settings: how models are served, and how many may be loaded.
        catalogue: the models on disk.
        clock: monotonic seconds, to tell how long ago a model failed to load.

    Attributes:
        roster: the loaded models. It is used with the pool's lock held.
        room_timeout: most seconds that a request waits for another model to make room.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.roster = Roster(settings, catalogue.describe, clock)
        self.room_timeout = settings.load_timeout
        self._settings = settings
        self._catalogue = catalogue
        self._line: OrderedDict[str, _Wanted] = OrderedDict()
        """Models that wait for room, in the order of their first requests."""
        self._changed = threading.Condition(threading.RLock())
        self._keeper = Keeper(self.roster, self._changed)
        self._loader: threading.Thread | None = None
        self._examination: Examination | None = None
        self._draining = False
        self._visit = _Visit()

    @property
    def default_id(self) -> str | None:
        """The model that answers requests that name none."""
        return self._catalogue.default

    def id_of(self, name: str) -> str:
        """Return the id of the model that a request names, without loading it.

        Raises:
            ModelNotFound: no such model.
        """
        return self.find(name).id

    def find(self, name: str) -> ModelEntry:
        """Return the model that a request names. If its file is gone, it is unloaded.

        Raises:
            ModelNotFound: no such model.
        """
        try:
            return self._catalogue.get(name)
        except ModelNotFound:
            with self._changed:
                model = self.roster.get(name)
                if model is not None:
                    self._outdate(model)
            raise

    def _outdate(self, model: LoadedModel) -> None:
        """Note that the file of a model was replaced or removed: the keeper unloads it."""
        model.outdated = True
        self._keeper.watch()
        self._changed.notify_all()

    def start(self) -> None:
        """Begin to load the models that are loaded at start, without waiting for them."""
        for model_id in self._catalogue.start_ids():
            entry = self._catalogue.get(model_id)
            try:
                self._catalogue.describe(entry)  # read its header without the lock
                with self._changed:
                    fit = self.roster.place(entry)
                    if fit is not None:
                        self.roster.begin(entry, fit)
                        self._keeper.watch()
                    elif self.roster.stuck:
                        message = _no_room(model_id).message
                        log.error("%s", message)
                        self.roster.note(entry, message)
                    else:
                        raise Overloaded("others that are loaded at start leave no room for it.")
            except Overloaded as ex:
                log.error("%s will be loaded at its first request: %s", model_id, ex)
            except ModelLoadFailed as ex:
                log.error("%s", ex.message)

    def loaded(self) -> list[EngineClient]:
        """Return the engine clients of all models that are loaded or loading."""
        with self._changed:
            return self.roster.clients()

    def info(self, model_id: str) -> ModelInfo | None:
        """Return the properties of a loaded model; None if it is not loaded."""
        with self._changed:
            model = self.roster.get(model_id)
        return model.client.info if model is not None and model.client.ready else None

    def fit(self, entry: ModelEntry) -> Fit:
        """Return how a model was loaded, and what it needs; for others, how they would be now."""
        self._catalogue.describe(entry)  # read its header without the lock
        with self._changed:
            return self.roster.fit(entry)

    def status(self, entry: ModelEntry) -> ModelStatus:
        """Return the state of a model. Asking for it is no use of the model."""
        with self._changed:
            model = self.roster.get(entry.id)
            if model is not None:
                return _status_of(model)
            if entry.id in self._line:
                return ModelStatus("waiting")
            if entry.id in self._keeper.ending:
                return ModelStatus("unloading", 1.0)
            failed = self.roster.failures.get(entry.id)
        if failed is not None and failed.stamp == entry.stamp:
            return ModelStatus("failed", error=failed.failure.message)
        return UNLOADED

    def keep_alive(self, entry: ModelEntry) -> float:
        """Return the ``keep_alive`` in force for a model, in seconds."""
        with self._changed:
            model = self.roster.get(entry.id)
        if model is not None:
            return model.keep_alive
        own = entry.own.keep_alive
        return self._settings.keep_alive if own is None else own

    def time_left(self, model_id: str) -> float | None:
        """Return after how many seconds without requests a loaded model is unloaded; None if that
        does not happen, or it is not loaded, or it is being unloaded."""
        with self._changed:
            model = self.roster.get(model_id)
            served = model is not None and model.serves
            left = self.roster.time_left(model) if model is not None and served else FOREVER
        return None if left == FOREVER else left

    def leaves(self, model_id: str) -> bool:
        """Return whether a loaded model takes no more requests, because it is being unloaded."""
        with self._changed:
            model = self.roster.get(model_id)
        return model is not None and not model.serves

    def load_command(self, entry: ModelEntry) -> Load:
        """Return the command with which a model is or would be loaded."""
        with self._changed:
            model = self.roster.get(entry.id)
        return load_command(self._settings, entry) if model is None else model.client.load

    def waiting(self) -> list[str]:
        """Return the ids of models that wait for room, in the order of their first requests."""
        with self._changed:
            return [*self._line]

    # --- requests -----------------------------------------------------------------------------

    def begin_visit(self) -> None:
        """Begin a request on the calling thread: until :meth:`end_visit`, the models that
        :meth:`engine` returns to it are not unloaded."""
        self.end_visit()
        self._visit.loaded = []

    def end_visit(self) -> None:
        """Release the leases of the calling thread's request. It has ended, or has its places in
        the queue, which keep its model loaded."""
        given, self._visit.loaded = self._visit.loaded, None
        if given:
            with self._changed:
                for loaded in given:
                    loaded.leases -= 1
                self._changed.notify_all()

    def engine(
        self,
        model_id: str,
        alive: Callable[[], bool] = lambda: True,
        use: Use = USUAL,
    ) -> EngineClient:
        """Return a model's engine client once the model is ready to take requests.

        Args:
            model_id: a name that the catalogue knows; "" for the default model.
            alive: called while waiting; returns whether the client is still connected.
            use: how the request uses the model.

        Raises:
            ModelNotFound: no such model.
            ModelNotLoaded: the model is not loaded, would have to wait for room, and ``use.unload``
                is false.
            ModelLoadFailed: llama.cpp cannot load it.
            Overloaded: no loaded model made room for it in time, it is not loaded within
                ``use.wait``, or too many requests wait for that.
            ClientGone: ``alive`` returned False.
        """
        began = time.monotonic()
        loaded = self._lease(self.find(model_id), alive, use)
        visit = self._visit.loaded
        if visit is not None:
            visit.append(loaded)
        try:
            left = None if use.wait is None else use.wait - (time.monotonic() - began)
            loaded.client.wait_ready(alive, left)
            if use.keep_alive is not None:
                self._keep(loaded, use.keep_alive)
        finally:
            if visit is None:
                with self._changed:
                    loaded.leases -= 1
                    self._changed.notify_all()
        return loaded.client

    def generator(
        self, model_id: str, alive: Callable[[], bool] = lambda: True, use: Use = USUAL
    ) -> EngineClient:
        """Return the same as :meth:`engine`, for a model that generates text.

        Raises:
            InvalidParameter: the model is made for embedding or ranking.
        """
        client = self.engine(model_id, alive, use)
        if not client.info.generates:
            path = "/v1/rerank" if client.info.pooling == "rank" else "/v1/embeddings"
            raise InvalidParameter(
                f"The model {client.name} does not generate text; it serves {path}.",
                "model",
                code="unsupported_model",
            )
        return client

    def _lease(self, entry: ModelEntry, alive: Callable[[], bool], use: Use) -> LoadedModel:
        """Return a model that is loaded or loading, and take a lease on it."""
        self._catalogue.describe(entry)  # read its header without the lock
        with self._changed:
            known = self._available(entry)
            if known is not None:
                known.leases += 1
                if use.unload:
                    self.roster.use(known)
                return known
            if not use.unload:
                raise ModelNotLoaded(entry.id)
            wanted = self._want(entry.id)
            try:
                return self._await(wanted, alive, use.wait)
            finally:
                wanted.waiters -= 1
                self._changed.notify_all()

    def _available(self, entry: ModelEntry) -> LoadedModel | None:
        """Return a model that takes requests, and begin to load it if there is room; else None."""
        self._check_draining()
        roster = self.roster
        roster.bury()
        known = roster.get(entry.id)
        if known is not None and known.entry != entry:
            self._outdate(known)
        roster.check_file(entry)
        roster.check_failed(entry)
        if known is None and not self._line:
            fit = roster.place(entry)
            known = None if fit is None else roster.begin(entry, fit)
        if known is None or not known.serves:
            return None
        self._keeper.watch()
        return known

    # --- loading and unloading by request -----------------------------------------------------

    def load(self, model_id: str, keep_alive: float | None = None) -> None:
        """Begin to load a model, without waiting for it; another one may be unloaded for it.

        Raises:
            ModelNotFound, ModelLoadFailed, Overloaded: see :meth:`engine`. What happens later, the
                model's status tells.
        """
        entry = self.find(model_id)
        self._catalogue.describe(entry)  # read its header without the lock
        with self._changed:
            known = self._available(entry)
            if known is None:
                if self.roster.stuck and self.roster.place(entry) is None:
                    raise _no_room(entry.id)
                wanted = self._in_line(entry.id)
                wanted.until = time.monotonic() + self.room_timeout
                if keep_alive is not None:
                    wanted.keep_alive = keep_alive
                self._changed.notify_all()
            else:
                self.roster.use(known)
                if keep_alive is not None:
                    self._keep(known, keep_alive)

    def unload(
        self, model_id: str, alive: Callable[[], bool] = lambda: True, *, wait: bool = True
    ) -> None:
        """Unload a model as soon as no request uses it. Later requests wait, and load it again.

        Args:
            model_id: a name that the catalogue knows.
            alive: called while waiting; returns whether the client is still connected.
            wait: whether to wait until its worker has ended.

        Raises:
            ModelNotFound: no such model.
            Overloaded: the server is stopping, or cannot start a thread.
            ClientGone: ``alive`` returned False. The model is unloaded nevertheless.
        """
        entry = self.find(model_id)
        with self._changed:
            self._check_draining()
            if entry.id in self._line:
                self._line[entry.id].until = 0.0
            model = self.roster.get(entry.id)
            if model is not None:
                self._keeper.start()
                model.unwanted = True
                self._changed.notify_all()
            while wait and (self._is_loaded(model) or entry.id in self._keeper.ending):
                self._check_draining()
                if not alive():
                    raise ClientGone
                self._changed.wait(_POLL)

    def _is_loaded(self, model: LoadedModel | None) -> bool:
        return model is not None and self.roster.get(model.entry.id) is model

    def _keep(self, model: LoadedModel, keep_alive: float) -> None:
        """Change how long a model stays loaded without requests."""
        with self._changed:
            model.keep_alive = keep_alive
            self._keeper.watch()
            self._changed.notify_all()

    # --- waiting for room ---------------------------------------------------------------------

    def _check_draining(self) -> None:
        if self._draining:
            raise Overloaded("The server is stopping.", code="server_shutting_down")

    def _want(self, model_id: str) -> _Wanted:
        """Add the request to those that wait for a model to be loaded.

        Raises:
            Overloaded: as many requests already wait for it as it has slots plus ``queue_size``.
                The gate bounds the number of requests that wait for all models together.
        """
        limit = self._settings.most_parallel + self._settings.queue_size
        wanted = self._line.get(model_id)
        if wanted is not None and wanted.waiters >= limit:
            raise Overloaded(
                f"No loaded model can make room for {model_id} now, and too many requests already "
                "wait for it; try again later.",
                retry_after=5,
            )
        wanted = self._in_line(model_id)
        wanted.waiters += 1
        self._changed.notify_all()
        return wanted

    def _in_line(self, model_id: str) -> _Wanted:
        """Return the place in the line of a model that waits for room."""
        if self._loader is None:
            self._loader = self._start_loader()
        return self._line.setdefault(model_id, _Wanted(model_id))

    def _start_loader(self) -> threading.Thread:
        loader = threading.Thread(target=self._load_all, name="loader", daemon=True)
        start_thread(loader)
        return loader

    def _await(
        self, wanted: _Wanted, alive: Callable[[], bool], patience: float | None = None
    ) -> LoadedModel:
        now = time.monotonic()
        deadline = now + self.room_timeout
        if patience is not None:  # it is loaded even if the request does not wait for it
            wanted.until = max(wanted.until, deadline)
        while True:
            if wanted.loaded is not None:
                return wanted.loaded
            if wanted.error is not None:
                raise wanted.error
            self._check_draining()
            known = self.roster.get(wanted.id)
            if known is not None and known.serves:  # another model was unloaded instead of it
                known.leases += 1
                self.roster.use(known)
                return known
            if patience is not None and time.monotonic() >= now + patience:
                raise Overloaded(
                    f"The model {wanted.id} waits for room to be loaded; try again later.",
                    code="model_loading",
                    retry_after=5,
                )
            if time.monotonic() > deadline:
                raise Overloaded(
                    f"No loaded model has made room for {wanted.id} within "
                    f"{self.room_timeout:g} s; try again later.",
                    retry_after=5,
                )
            if not alive():
                raise ClientGone
            self._changed.wait(_POLL)

    # --- loading and unloading ----------------------------------------------------------------

    def _load_all(self) -> None:
        """Load the waiting models, one after the other. Runs on the loader thread."""
        while True:
            with self._changed:
                while not self._line and not self._draining:
                    self._changed.wait()
                if self._draining:
                    return
                wanted = next(iter(self._line.values()))
            try:
                self._bring(wanted)
            except RequestError as ex:
                wanted.error = ex
            except Exception:
                log.exception("%s could not be loaded", wanted.id)
                wanted.error = EngineFault("Internal server error.")
            if not wanted.waiters:
                self._tell_failure(wanted)
            with self._changed:
                self.roster.let_stay()
                # If all waiting requests left, but a new one has come since, it stays in line.
                settled = wanted.loaded is not None or wanted.error is not None
                if (settled or not wanted.wanted) and self._line.get(wanted.id) is wanted:
                    del self._line[wanted.id]
                self._changed.notify_all()

    def _tell_failure(self, wanted: _Wanted) -> None:
        """Let log and status tell why a model was not loaded: no request waits to hear it."""
        if wanted.error is not None:
            message = wanted.error.message
        elif wanted.loaded is None and 0.0 < wanted.until <= time.monotonic():
            message = (
                f"The model {wanted.id} was not loaded: no loaded model has made room for it "
                f"within {self.room_timeout:g} s."
            )
        else:
            return
        log.error("%s", message)
        with contextlib.suppress(ModelNotFound):
            entry = self.find(wanted.id)
            with self._changed:
                self.roster.note(entry, message)

    def _bring(self, wanted: _Wanted) -> None:
        """Load a model, unloading another one first if necessary.

        Returns early when no request waits for it any more.

        Raises:
            RequestError: it cannot be loaded.
        """
        entry = self.find(wanted.id)
        self._catalogue.describe(entry)
        with self._changed:
            self.roster.check_file(entry)
            full = self.roster.get(wanted.id) is not None or self.roster.place(entry) is None
            sound = self.roster.sound(entry)
        if full and not sound:
            self._examine(entry)
        unloaded = None
        while (victim := self._wait_for_room(wanted, entry, unloaded)) is not None:
            if victim.gone:
                tell(victim)
            elif victim.entry.id != wanted.id:
                log.info("unloading %s to make room for %s", victim.entry.id, wanted.id)
                unloaded = victim.entry.id
            self._keeper.end(victim)

    def _wait_for_room(
        self, wanted: _Wanted, entry: ModelEntry, unloaded: str | None
    ) -> LoadedModel | None:
        """Begin to load a model as soon as there is room.

        Returns:
            A model that must be unloaded first and was taken out of the roster. None if the wanted
            model is being loaded, or no request waits for it, or the server is stopping.
        """
        roster = self.roster
        with self._changed:
            while True:
                roster.bury()
                known = roster.get(wanted.id)
                if self._draining or not wanted.wanted:
                    roster.let_stay()
                    return None
                if known is not None and known.serves:
                    self._hand_out(wanted, known)
                    return None
                fit = roster.place(entry) if known is None else None
                if fit is not None:
                    self._hand_out(wanted, roster.begin(entry, fit, unloaded))
                    return None
                # The keeper may be ending another model, whose memory may be enough.
                victim = known if known or roster.closing else roster.choose_victim()
                if victim is None and roster.stuck and not roster.closing:
                    raise _no_room(wanted.id)
                if victim is not None and victim.idle:
                    roster.let_stay()
                    self._keeper.take_out(victim)
                    return victim
                self._changed.wait(_POLL)

    def _hand_out(self, wanted: _Wanted, loaded: LoadedModel) -> None:
        """Hand a model to the requests that wait for it, with a lease for each."""
        self.roster.let_stay()
        if wanted.keep_alive is not None:
            loaded.keep_alive = wanted.keep_alive
        self._keeper.watch()
        wanted.loaded = loaded
        loaded.leases += wanted.waiters
        del self._line[wanted.id]
        self._changed.notify_all()

    def _examine(self, entry: ModelEntry) -> None:
        """Examine a file before another model is unloaded for it.

        Raises:
            ModelLoadFailed: it cannot be loaded.
        """
        examination = Examination(load_command(self._settings, entry), self._settings.load_timeout)
        with self._changed:
            if self._draining:
                return
            self._examination = examination
        refusal = examination.run()
        # If the server is stopping, it killed the examination, which says nothing about the file.
        if refusal is None or self._draining:
            return
        message = f"The model {entry.id} cannot be loaded: {refusal.message}"
        with self._changed:
            self.roster.remember(entry, LoadFailure(message, refusal.lasting))
        log.error("%s No other model is unloaded for it.", message)
        raise ModelLoadFailed(message, "model")

    # --- the end ------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new requests from now on."""
        with self._changed:
            self._draining = True
            for client in self.roster.clients():
                client.drain()
            if self._examination is not None:
                self._examination.stop()
            self._keeper.stop()
            self._changed.notify_all()

    def shutdown(self, timeout: float) -> None:
        """Wait for running answers up to ``timeout`` seconds, then stop everything. Idempotent."""
        self.drain()
        deadline = time.monotonic() + timeout
        with self._changed:
            clients = self.roster.clear()
            loader = self._loader
        for client in clients:
            client.close(max(0.0, deadline - time.monotonic()))
        if loader is not None:
            loader.join(_JOIN_SECONDS)
        self._keeper.join(_JOIN_SECONDS)


def _no_room(model_id: str) -> Overloaded:
    """Return the error for a model for which no other one can be unloaded."""
    return Overloaded(
        f"The model {model_id} cannot be loaded: all loaded models are pinned, and there is no "
        "room for another one (OFFGRID_MAX_MODELS, OFFGRID_MEMORY_BUDGET)."
    )


def _status_of(model: LoadedModel) -> ModelStatus:
    client = model.client
    if client.load_failure is not None:
        return ModelStatus("failed", error=client.load_failure.message)
    if not model.serves:
        return ModelStatus("unloading", client.progress)
    return ModelStatus("loaded" if client.ready else "loading", client.progress)
