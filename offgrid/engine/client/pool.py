"""Provides the engine client of each model. A model is loaded when it is first requested, and
unloaded when no request has come for its ``keep_alive``.

At most ``max_models`` are loaded, and only as many as fit into memory. When another one is
requested, it waits in line (:mod:`~offgrid.engine.client.line`) until others have made room. A
model stays while it is loading and while a request is about to use it.

:mod:`~offgrid.engine.client.roster` knows which models are loaded and which one makes room.
:mod:`~offgrid.engine.client.keeper` unloads models. This module has the requests that use a model.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from offgrid.config import FOREVER, Commit, Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.fit import Fit
from offgrid.engine.client.keeper import Keeper
from offgrid.engine.client.lenders import Lenders, local_servers
from offgrid.engine.client.line import POLL, WaitingLine, no_room
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.returning import Found, Returning
from offgrid.engine.client.roster import LoadedModel, Roster, load_command
from offgrid.engine.client.turnover import retry_after, seconds_of_all
from offgrid.engine.client.use import UNLOADED, USUAL, ModelStatus, Use
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.errors import (
    InvalidParameter,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    RequestError,
)
from offgrid.rpc.endpoint import RpcServer
from offgrid.store.catalogue import Catalogue
from offgrid.store.survey import ModelEntry

log = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0
LIVE = (
    "keep_alive", "ctx_size", "batch_size", "threads", "gpu_layers", "flash_attention",
    "kv_type_k", "kv_type_v", "use_mmap", "use_mlock", "swa_full", "checkpoints_mb", "cache_ram_mb",
    "cache_disk_mb", "drafts", "open_objects", "reasoning_budget", "queue_timeout", "load_timeout",
    "stall_timeout", "rpc_servers", "rpc_layers", "rpc_library",
)  # fmt: skip
"""The settings that can change while the server runs. Those for which a worker is made hold for the
models that are loaded from then on."""


class _Visit(threading.local):
    """The models leased by the request that the calling thread serves; None outside a request."""

    loaded: list[LoadedModel] | None = None


class EnginePool:
    """Provides the engine client of a model, loading the model first if necessary.

    Args:
        settings: how models are served, and how many may be loaded.
        catalogue: the models on disk.
        clock: monotonic seconds, to tell how long ago a model failed to load.
        servers: returns the servers of the settings that lend memory.

    Attributes:
        elsewhere: returns a sentence about the models of other machines, for the error that a name
            means no model here; may be empty.
        lenders: know what other machines lend.
        roster: the loaded models. It is used with the pool's lock held.
        line: the models that wait for room. It is used with the pool's lock held.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        clock: Callable[[], float] = time.monotonic,
        servers: Callable[[Settings], Sequence[RpcServer]] = local_servers,
    ) -> None:
        self.elsewhere: Callable[[str], str] = lambda name: ""
        self.lenders = Lenders(lambda: servers(self._settings), clock)
        self.roster = Roster(settings, lambda entry: catalogue.describe(entry), self.lenders, clock)
        self._settings = settings
        self._catalogue = catalogue
        self._changed = threading.Condition(threading.RLock())
        self._returning = Returning(self._bring_back)
        self._keeper = Keeper(self.roster, self._changed)
        self.line = WaitingLine(
            settings, catalogue, self.find, self.roster, self._keeper, self._changed
        )
        self._visit = _Visit()

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""

        def commit() -> None:
            with self._changed:
                self._settings = settings
                self.lenders.forget()
                if settings.rpc_servers:
                    self._returning.start()
                self.line.take(settings)
                self.roster.take(settings)
                self._keeper.watch()
                self._changed.notify_all()

        return commit

    @property
    def draining(self) -> bool:
        """Whether the server is stopping and takes no more requests for models."""
        return self.line.draining

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
        except ModelNotFound as ex:
            with self._changed:
                model = self.roster.get(name)
                if model is not None:
                    self._outdate(model)
            raise ex.with_advice(self.elsewhere(name)) from None

    def look_up(self, name: str) -> ModelEntry | None:
        """Return the same as :meth:`find`; None if no model has the name."""
        return self._catalogue.find(name)

    def names(self, entry: ModelEntry) -> list[str]:
        """Return the id of a model and its aliases."""
        return [entry.id, *self._catalogue.aliases().get(entry.id, ())]

    def all_names(self) -> frozenset[str]:
        """Return the ids of all models and their aliases."""
        names = {entry.id for entry in self._catalogue.entries()}
        for aliases in self._catalogue.aliases().values():
            names.update(aliases)
        return frozenset(names)

    def _outdate(self, model: LoadedModel) -> None:
        """Note that the file of a model was replaced or removed: the keeper unloads it."""
        model.outdated = True
        self._keeper.watch()
        self._changed.notify_all()

    def start(self) -> list[str]:
        """Begin to load the models that are loaded at start, without waiting for them.

        Returns:
            The ids of those that are loading. Why others are not is in the log.
        """
        begun = []
        for model_id in self._catalogue.start_ids():
            entry = self._catalogue.get(model_id)
            try:
                self._prepare(entry)
                with self._changed:
                    fit = self.roster.place(entry)
                    if fit is not None:
                        self.roster.begin(entry, fit)
                        self._keeper.watch()
                        begun.append(model_id)
                    elif self.roster.stuck:
                        message = no_room(model_id).message
                        log.error("%s", message)
                        self.roster.note(entry, message)
                    else:
                        raise Overloaded("others that are loaded at start leave no room for it.")
            except Overloaded as ex:
                log.error("%s will be loaded at its first request: %s", model_id, ex)
            except ModelLoadFailed as ex:
                log.error("%s", ex.message)
                with self._changed:
                    self.roster.note(entry, ex.message)
        if self._settings.rpc_servers:
            self._returning.start()
        return begun

    def _bring_back(self) -> Found:
        """Load the models of the start that could not be loaded, if there is memory for them now:
        machines that lend may be back. Called by another thread.

        Returns:
            What it has found, before it began to load a model.
        """
        found: Found = "complete"
        for model_id in self._catalogue.start_ids():
            with self._changed:
                self.roster.bury()
                known = self.roster.get(model_id)
                if known is not None and not known.client.ready and found == "complete":
                    found = "loading"
                if self.line.draining or not self.roster.may_return(model_id):
                    continue
            found = "missing"
            with contextlib.suppress(RequestError):
                entry = self._catalogue.get(model_id)
                self._prepare(entry)
                with self._changed:
                    known = self.roster.get(model_id)
                    waits = self.line.draining or self.roster.must_ask
                    fit = None if known or waits else self.roster.place(entry)
                    if fit is not None:
                        self.roster.begin(entry, fit)
                        self._keeper.watch()
                        break
        return found

    def loaded(self) -> list[EngineClient]:
        """Return the engine clients of all models that are loaded or loading."""
        with self._changed:
            return self.roster.clients()

    def snapshot(self) -> list[EngineClient]:
        """Return the same as :meth:`loaded`, without waiting for the lock, which requests hold
        while they read files: a model that is just added or removed may or may not be in it."""
        return self.roster.snapshot()

    def retry_after(self, turns: int) -> int:
        """Return the value of a ``Retry-After`` header for a request that finds no place: when so
        many requests of any model have ended. If none runs, when the first model is loaded."""
        clients = self.snapshot()
        busy = [client.turnover for client in clients if client.ready and client.in_flight]
        seconds = seconds_of_all(busy, turns)
        if seconds is None:
            left = [client.seconds_to_ready for client in clients]
            seconds = min((time for time in left if time is not None), default=None)
        return retry_after(seconds)

    def has_failed(self, model_id: str) -> bool:
        """Return whether a model could not be loaded the last time. Does not wait."""
        return model_id in self.roster.failures

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
            if entry.id in self.line:
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
            return [*self.line]

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
            loaded.client.wait_ready(alive, left, use.owner)
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

    def _prepare(self, entry: ModelEntry) -> None:
        """Find out what may take a while, without the lock: what the files of a model say and, if
        it is not loaded, what other machines lend."""
        self._catalogue.describe(entry)
        with self._changed:
            self.roster.bury()
            loaded = self.roster.get(entry.id) is not None
        if not loaded:
            self.line.ask_lenders()

    def _lease(self, entry: ModelEntry, alive: Callable[[], bool], use: Use) -> LoadedModel:
        """Return a model that is loaded or loading, and take a lease on it."""
        self._prepare(entry)
        with self._changed:
            known = self._available(entry)
            if known is not None:
                known.leases += 1
                if use.unload:
                    self.roster.use(known)
                return known
            if not use.unload:
                raise ModelNotLoaded(entry.id)
            return self.line.wait(entry.id, alive, use.wait, use.owner)

    def _available(self, entry: ModelEntry) -> LoadedModel | None:
        """Return a model that takes requests, and begin to load it if there is room; else None."""
        self.line.check_draining()
        roster = self.roster
        roster.bury()
        known = roster.get(entry.id)
        if known is not None and known.entry != entry:
            self._outdate(known)
        roster.check_file(entry)
        roster.check_failed(entry)
        # The thread of the line asks first if what other machines lend has changed since then.
        if known is None and not self.line and not roster.must_ask:
            fit = roster.place(entry)
            known = None if fit is None else roster.begin(entry, fit)
        if known is None or not known.serves:
            return None
        known.pin = known.client.pinned = entry.pinned  # a request may have changed it
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
        self._prepare(entry)
        with self._changed:
            known = self._available(entry)
            if known is None:
                full = self.roster.stuck and not (self.roster.closing or self.roster.must_ask)
                if full and self.roster.place(entry) is None:
                    raise no_room(entry.id)
                self.line.ask(entry.id, keep_alive)
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
            self.line.check_draining()
            self.line.dismiss(entry.id)
            model = self.roster.get(entry.id)
            if model is not None:
                self._keeper.start()
                model.unwanted = True
                self._changed.notify_all()
            while wait and (self._is_loaded(model) or entry.id in self._keeper.ending):
                self.line.check_draining()
                if not alive():
                    raise ClientGone
                self._changed.wait(POLL)

    def pin(self, entry: ModelEntry, pinned: bool) -> None:
        """Let a loaded model stay loaded, or not. It does not load one, and remembers nothing."""
        with self._changed:
            model = self.roster.get(entry.id)
            if model is not None:
                model.pin = model.client.pinned = pinned
                self._keeper.watch()
                self._changed.notify_all()

    def _is_loaded(self, model: LoadedModel | None) -> bool:
        return model is not None and self.roster.get(model.entry.id) is model

    def _keep(self, model: LoadedModel, keep_alive: float) -> None:
        """Change how long a model stays loaded without requests."""
        with self._changed:
            model.keep_alive = keep_alive
            self._keeper.watch()
            self._changed.notify_all()

    # --- the end ------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new requests from now on."""
        with self._changed:
            for client in self.roster.clients():
                client.drain()
            self._returning.stop()
            self._keeper.stop()
            self.line.stop()

    def shutdown(self, timeout: float) -> None:
        """Wait for running answers up to ``timeout`` seconds, then stop everything. Idempotent."""
        self.drain()
        deadline = time.monotonic() + timeout
        with self._changed:
            clients = self.roster.clear()
        _close_all(clients, deadline)
        self.line.join(_JOIN_SECONDS)
        self._keeper.join(_JOIN_SECONDS)


def _close_all(clients: Sequence[EngineClient], deadline: float) -> None:
    """Close models at the same time: each whose worker is stuck takes seconds."""

    def close(client: EngineClient) -> None:
        try:
            client.close(max(0.0, deadline - time.monotonic()))
        except Exception:
            log.exception("the worker of %s could not be ended", client.name)

    threads = []
    for client in clients[1:]:
        thread = threading.Thread(target=close, args=(client,), name="engine-closing", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has none left
            close(client)
        else:
            threads.append(thread)
    for client in clients[:1]:
        close(client)
    for thread in threads:
        thread.join()


def _status_of(model: LoadedModel) -> ModelStatus:
    client = model.client
    if client.load_failure is not None:
        return ModelStatus("failed", error=client.load_failure.message)
    if not model.serves:
        return ModelStatus("unloading", client.progress)
    return ModelStatus("loaded" if client.ready else "loading", client.progress)
