"""Gives out the engine of a model: one worker process each, loaded when first asked for.

At most ``max_models`` are loaded. When another one is asked for, its file is examined first; then
the least recently used model without requests is unloaded for it, or, when all are at work, the
first one that has none left. Loads wait in the order in which they were asked for, and a model that
is loading, or that a request is about to use, stays until that is over.

:mod:`~offgrid.engine.client.roster` knows what is loaded and which model makes room; here are the
requests that use a model or stand in line for one, and the thread that loads those in line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.examination import Examination
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.process import start_thread
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.client.roster import LoadedModel, Roster, load_command
from offgrid.errors import (
    EngineFault,
    InvalidParameter,
    ModelLoadFailed,
    ModelNotLoaded,
    Overloaded,
    RequestError,
)
from offgrid.store.catalogue import Catalogue, ModelEntry

log = logging.getLogger(__name__)

_POLL = 0.05
"""Seconds between two looks at whether a client is still there, or a model has become idle."""
_JOIN_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Wanted:
    """A model that waits to be loaded, and the requests that wait for it."""

    id: str
    waiters: int = 0
    loaded: LoadedModel | None = None
    """Set when it is being loaded; each of the waiters holds a lease then."""
    error: RequestError | None = None
    """Set when it will not be loaded."""


class _Visit(threading.local):
    """What the request that the calling thread serves has been given; None outside of one."""

    loaded: list[LoadedModel] | None = None


class EnginePool:
    """Gives out the engine of a model, loading it first if need be.

    Args:
        settings: how models are served, and how many are loaded at most.
        catalogue: the models that there are.
        clock: seconds, never going back: how long ago a model failed to load.

    Attributes:
        roster: what is loaded. It is changed with the pool's lock held.
        room_timeout: seconds that a request waits for another model to make room.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.roster = Roster(settings, clock)
        self.room_timeout = settings.load_timeout
        self._settings = settings
        self._catalogue = catalogue
        self._line: OrderedDict[str, _Wanted] = OrderedDict()
        """Models that wait for room, in the order in which they were first asked for."""
        self._changed = threading.Condition(threading.RLock())
        self._loader: threading.Thread | None = None
        self._examination: Examination | None = None
        self._draining = False
        self._visit = _Visit()

    @property
    def default_id(self) -> str | None:
        """The model that is loaded at start: the configured one, else the first by id."""
        if self._catalogue.default_id is not None:
            return self._catalogue.default_id
        entries = self._catalogue.entries()
        return entries[0].id if entries else None

    def start(self) -> None:
        """Begin to load the default model; does not wait for it."""
        model_id = self.default_id
        if model_id is not None:
            entry = self._catalogue.get(model_id)
            try:
                with self._changed:
                    self.roster.begin(entry)
            except Overloaded as ex:
                log.error("%s will be loaded at its first request: %s", model_id, ex)

    def loaded(self) -> list[EngineClient]:
        """The engines of all models that are loaded or loading."""
        with self._changed:
            return self.roster.clients()

    def waiting(self) -> list[str]:
        """The models that wait for room, in the order in which they were first asked for."""
        with self._changed:
            return [*self._line]

    # --- requests -----------------------------------------------------------------------------

    def begin_visit(self) -> None:
        """The calling thread begins with a request: until :meth:`end_visit`, what
        :meth:`engine` gives it is not unloaded."""
        self.end_visit()
        self._visit.loaded = []

    def end_visit(self) -> None:
        """The request is over, or has its places in the queue: these keep its model loaded."""
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
        *,
        unload: bool = True,
    ) -> EngineClient:
        """Return the engine of a model that is ready to take requests.

        Args:
            model_id: an id of the catalogue.
            alive: asked while waiting whether the client is still there.
            unload: whether another model may be unloaded for it.

        Raises:
            ModelNotFound: no such model.
            ModelNotLoaded: one would have to be unloaded for it, and ``unload`` is false.
            ModelLoadFailed: llama.cpp does not load it.
            Overloaded: no loaded model made room for it in time, or too many wait for that.
            ClientGone: ``alive`` said no.
        """
        loaded = self._lease(self._catalogue.get(model_id), alive, unload)
        visit = self._visit.loaded
        if visit is not None:
            visit.append(loaded)
        try:
            loaded.client.wait_ready(alive)
        finally:
            if visit is None:
                with self._changed:
                    loaded.leases -= 1
                    self._changed.notify_all()
        return loaded.client

    def generator(self, model_id: str, alive: Callable[[], bool] = lambda: True) -> EngineClient:
        """Return :meth:`engine` of a model that writes text.

        Raises:
            InvalidParameter: it is made for embedding or ranking.
        """
        client = self.engine(model_id, alive)
        if not client.info.generates:
            use = "/v1/rerank" if client.info.pooling == "rank" else "/v1/embeddings"
            raise InvalidParameter(
                f"The model {model_id} does not generate text; it serves {use}.",
                "model",
                code="unsupported_model",
            )
        return client

    def _lease(self, entry: ModelEntry, alive: Callable[[], bool], unload: bool) -> LoadedModel:
        """Return a model that is loaded or loading, with one lease more."""
        with self._changed:
            self._check_draining()
            roster = self.roster
            roster.bury()
            known = roster.get(entry.id)
            if known is not None:
                known.outdated = known.entry != entry
            roster.check_failed(entry)
            if known is None and not self._line and roster.room:
                known = roster.begin(entry)
            if known is not None and known.serves:
                known.leases += 1
                roster.use(known)
                return known
            if not unload:
                raise ModelNotLoaded(entry.id)
            wanted = self._want(entry.id)
            try:
                return self._await(wanted, alive)
            finally:
                wanted.waiters -= 1
                self._changed.notify_all()

    def _check_draining(self) -> None:
        if self._draining:
            raise Overloaded("The server is stopping.", code="server_shutting_down")

    def _want(self, model_id: str) -> _Wanted:
        """Stand in line for a model.

        Raises:
            Overloaded: as many requests wait for it as it has slots and places in its queue. How
                many wait for all models together is bounded where requests come in.
        """
        limit = self._settings.parallel + self._settings.queue_size
        wanted = self._line.get(model_id)
        if wanted is not None and wanted.waiters >= limit:
            raise Overloaded(
                f"No loaded model can make room for {model_id} now, and too many requests already "
                "wait for it; try again later.",
                retry_after=5,
            )
        if self._loader is None:
            self._loader = self._start_loader()
        if wanted is None:
            wanted = self._line[model_id] = _Wanted(model_id)
        wanted.waiters += 1
        self._changed.notify_all()
        return wanted

    def _start_loader(self) -> threading.Thread:
        loader = threading.Thread(target=self._load_all, name="loader", daemon=True)
        start_thread(loader)
        return loader

    def _await(self, wanted: _Wanted, alive: Callable[[], bool]) -> LoadedModel:
        deadline = time.monotonic() + self.room_timeout
        while True:
            if wanted.loaded is not None:
                return wanted.loaded
            if wanted.error is not None:
                raise wanted.error
            self._check_draining()
            known = self.roster.get(wanted.id)
            if known is not None and known.serves:  # another one has made room instead of it
                known.leases += 1
                return known
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
        """Load the models in line, one after the other. A thread of its own."""
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
            with self._changed:
                # Who came after the last of those that it was loaded for had left stays in line.
                settled = wanted.loaded is not None or wanted.error is not None
                if (settled or not wanted.waiters) and self._line.get(wanted.id) is wanted:
                    del self._line[wanted.id]
                self._changed.notify_all()

    def _bring(self, wanted: _Wanted) -> None:
        """Load a model, unloading another one first if need be.

        Returns early when nobody waits for it any more.

        Raises:
            RequestError: it cannot be loaded.
        """
        entry = self._catalogue.get(wanted.id)
        with self._changed:
            full = not self.roster.room or self.roster.get(wanted.id) is not None
            sound = self.roster.sound(entry)
        if full and not sound:
            self._examine(entry)
        unloaded = None
        while (victim := self._wait_for_room(wanted, entry, unloaded)) is not None:
            if victim.entry.id == wanted.id:
                log.info("the file of %s was replaced; loading it again", wanted.id)
            else:
                log.info("unloading %s to make room for %s", victim.entry.id, wanted.id)
                unloaded = victim.entry.id
            try:
                victim.client.close()
            finally:
                with self._changed:
                    self.roster.closed()

    def _wait_for_room(
        self, wanted: _Wanted, entry: ModelEntry, unloaded: str | None
    ) -> LoadedModel | None:
        """Begin to load a model as soon as there is room.

        Returns:
            A model that has to be ended first; it is not in the roster any more. None when that of
            ``wanted`` is being loaded, or nobody waits for it.
        """
        roster = self.roster
        with self._changed:
            while True:
                roster.bury()
                known = roster.get(wanted.id)
                if self._draining or not wanted.waiters:
                    roster.let_stay()
                    return None
                if known is not None and known.serves:
                    self._hand_out(wanted, known)
                    return None
                if known is None and roster.room:
                    self._hand_out(wanted, roster.begin(entry, unloaded))
                    return None
                victim = known or roster.choose_victim()
                if victim.idle:
                    roster.let_stay()
                    roster.take_out(victim)
                    return victim
                self._changed.wait(_POLL)

    def _hand_out(self, wanted: _Wanted, loaded: LoadedModel) -> None:
        """Give a model to those who wait for it, with a lease for each."""
        self.roster.let_stay()
        wanted.loaded = loaded
        loaded.leases += wanted.waiters
        del self._line[wanted.id]
        self._changed.notify_all()

    def _examine(self, entry: ModelEntry) -> None:
        """Look at a file before anything is unloaded for it.

        Raises:
            ModelLoadFailed: it cannot be loaded.
        """
        examination = Examination(load_command(self._settings, entry), self._settings.load_timeout)
        with self._changed:
            if self._draining:
                return
            self._examination = examination
        refusal = examination.run()
        # A server that stops has ended it: that says nothing about the file.
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
