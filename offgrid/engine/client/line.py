"""The models that wait for room, and the thread that loads them in the order in which they were
requested.

The file of a model that waits is examined first. Then least recently used idle models are unloaded
for it, until it fits. If none is idle, the least recently used loaded model takes no more requests
until it is. A load begins after the processes of the unloaded models have ended.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from offgrid.config import Settings
from offgrid.engine.client.examination import Examination
from offgrid.engine.client.keeper import Keeper, tell
from offgrid.engine.client.pending import ClientGone
from offgrid.engine.client.process import start_thread
from offgrid.engine.client.readiness import RETRY_LOADED, LoadFailure
from offgrid.engine.client.roster import LoadedModel, Roster, load_command
from offgrid.engine.client.shares import Shares
from offgrid.engine.client.turnover import LONGEST, retry_after
from offgrid.errors import EngineFault, ModelLoadFailed, ModelNotFound, Overloaded, RequestError
from offgrid.store.catalogue import Catalogue
from offgrid.store.survey import ModelEntry

log = logging.getLogger(__name__)

POLL = 0.05
"""Interval, in seconds, of checks whether a client is still connected or a model is idle."""


@dataclass(eq=False, slots=True)
class Wanted:
    """A model that waits to be loaded, and the requests that wait for it.

    ``until``: it is loaded also without a request that waits, if there is room until then.
    ``keep_alive``: seconds, from a request that did not wait; None for those of the settings.
    """

    id: str
    waiting: Shares
    until: float = 0.0
    keep_alive: float | None = None
    loaded: LoadedModel | None = None
    """Set when loading begins; each waiting request holds a lease from then on."""
    error: RequestError | None = None
    """Set when it cannot be loaded."""

    @property
    def waiters(self) -> int:
        """Number of requests that wait for it."""
        return self.waiting.taken

    @property
    def wanted(self) -> bool:
        """Whether it is still to be loaded."""
        return self.waiters > 0 or time.monotonic() < self.until


class WaitingLine:
    """The models that wait for room, in the order of their first requests.

    Args:
        settings: how models are served.
        catalogue: the models on disk.
        find: returns the model that a name means, or raises ``ModelNotFound``.
        roster: the loaded models.
        keeper: unloads models.
        changed: the condition of the pool, whose lock guards the roster and this line.

    Attributes:
        room_timeout: most seconds that a request waits for another model to make room.
        draining: whether the server is stopping.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        find: Callable[[str], ModelEntry],
        roster: Roster,
        keeper: Keeper,
        changed: threading.Condition,
    ) -> None:
        self.room_timeout = settings.load_timeout
        self._settings = settings
        self._catalogue = catalogue
        self._find = find
        self._roster = roster
        self._keeper = keeper
        self._changed = changed
        self._wanted: OrderedDict[str, Wanted] = OrderedDict()
        self._loader: threading.Thread | None = None
        self._examination: Examination | None = None
        self.draining = False

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._wanted

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    # --- requests; called with the lock held --------------------------------------------------

    def take(self, settings: Settings) -> None:
        """Use new settings for models that are loaded from now on."""
        self._settings = settings
        self.room_timeout = settings.load_timeout

    def check_draining(self) -> None:
        """Raise ``Overloaded`` if the server is stopping."""
        if self.draining:
            raise Overloaded("The server is stopping.", code="server_shutting_down")

    def ask(self, model_id: str, keep_alive: float | None) -> None:
        """Let a model be loaded for a request that does not wait for it.

        Args:
            model_id: the model.
            keep_alive: seconds; None for those of the settings.
        """
        wanted = self._in_line(model_id)
        wanted.until = time.monotonic() + self.room_timeout
        if keep_alive is not None:
            wanted.keep_alive = keep_alive
        self._changed.notify_all()

    def dismiss(self, model_id: str) -> None:
        """Load a model only for the requests that still wait for it."""
        if model_id in self._wanted:
            self._wanted[model_id].until = 0.0

    def wait(
        self,
        model_id: str,
        alive: Callable[[], bool],
        patience: float | None = None,
        owner: str = "",
    ) -> LoadedModel:
        """Return a model once it is loading, with a lease on it.

        Args:
            model_id: the model.
            alive: returns whether the client is still connected.
            patience: most seconds that the request waits; None for ``room_timeout``.
            owner: the caller.

        Raises:
            RequestError: it cannot be loaded, or there is no room for it in time, or too many
                requests wait for it.
            ClientGone: ``alive`` returned False.
        """
        wanted = self._want(model_id, owner)
        try:
            return self._await(wanted, alive, patience)
        finally:
            wanted.waiting.give_back(owner)
            self._changed.notify_all()

    def _want(self, model_id: str, owner: str) -> Wanted:
        """Add the request to those that wait for a model to be loaded.

        Raises:
            Overloaded: as many requests of the caller already wait for it as it has slots plus
                ``queue_size``, or fewer if others wait too. The gate bounds the number of requests
                that wait for all models together.
        """
        wanted = self._wanted.get(model_id)
        if wanted is not None and wanted.waiting.missing(owner, 1):
            raise Overloaded(
                f"No loaded model can make room for {model_id} now, and too many requests already "
                "wait for it; try again later.",
                retry_after=self._retry_after,
            )
        wanted = self._in_line(model_id)
        wanted.waiting.add(owner, 1)
        self._changed.notify_all()
        return wanted

    @property
    def _retry_after(self) -> int:
        """When a request for a model that waits for room should be tried again."""
        return retry_after(self._roster.seconds_to_room, RETRY_LOADED)

    def _in_line(self, model_id: str) -> Wanted:
        """Return the place in the line of a model that waits for room."""
        if self._loader is None:
            self._loader = self._start_loader()
        limit = self._settings.most_parallel + self._settings.queue_size
        return self._wanted.setdefault(model_id, Wanted(model_id, Shares(limit, limit)))

    def _start_loader(self) -> threading.Thread:
        loader = threading.Thread(target=self._load_all, name="loader", daemon=True)
        start_thread(loader)
        return loader

    def _await(
        self, wanted: Wanted, alive: Callable[[], bool], patience: float | None = None
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
            self.check_draining()
            known = self._roster.get(wanted.id)
            if known is not None and known.serves:  # another model was unloaded instead of it
                known.leases += 1
                self._roster.use(known)
                return known
            if patience is not None and time.monotonic() >= now + patience:
                raise Overloaded(
                    f"The model {wanted.id} waits for room to be loaded; try again later.",
                    code="model_loading",
                    retry_after=self._retry_after,
                )
            if time.monotonic() > deadline:
                raise Overloaded(
                    f"No loaded model has made room for {wanted.id} within "
                    f"{self.room_timeout:g} s; try again later.",
                    retry_after=self._retry_after,
                )
            if not alive():
                raise ClientGone
            self._changed.wait(POLL)

    # --- the loader thread --------------------------------------------------------------------

    def _load_all(self) -> None:
        """Load the waiting models, one after the other. Runs on the loader thread."""
        while True:
            with self._changed:
                while not self._wanted and not self.draining:
                    self._changed.wait()
                if self.draining:
                    return
                wanted = next(iter(self._wanted.values()))
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
                self._roster.let_stay()
                # If all waiting requests left, but a new one has come since, it stays in line.
                settled = wanted.loaded is not None or wanted.error is not None
                if (settled or not wanted.wanted) and self._wanted.get(wanted.id) is wanted:
                    del self._wanted[wanted.id]
                self._changed.notify_all()

    def _tell_failure(self, wanted: Wanted) -> None:
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
            entry = self._find(wanted.id)
            with self._changed:
                self._roster.note(entry, message)

    def _bring(self, wanted: Wanted) -> None:
        """Load a model, unloading another one first if necessary.

        Returns early when no request waits for it any more.

        Raises:
            RequestError: it cannot be loaded.
        """
        entry = self._find(wanted.id)
        self._catalogue.describe(entry)
        self.ask_lenders()
        with self._changed:
            self._roster.check_file(entry)
            full = self._roster.get(wanted.id) is not None or self._roster.place(entry) is None
            sound = self._roster.sound(entry)
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
        self, wanted: Wanted, entry: ModelEntry, unloaded: str | None
    ) -> LoadedModel | None:
        """Begin to load a model as soon as there is room.

        Returns:
            A model that must be unloaded first and was taken out of the roster. None if the wanted
            model is being loaded, or no request waits for it, or the server is stopping.
        """
        while True:
            with self._changed:
                decided, victim = self._look_for_room(wanted, entry, unloaded)
            if decided:
                return victim
            self.ask_lenders()

    def _look_for_room(
        self, wanted: Wanted, entry: ModelEntry, unloaded: str | None
    ) -> tuple[bool, LoadedModel | None]:
        """Do the same, until other machines must be asked what they lend. Called with the lock
        held, unlike that question, which may take seconds.

        Returns:
            Whether it is decided, and the model.
        """
        roster = self._roster
        while True:
            roster.bury()
            known = roster.get(wanted.id)
            if self.draining or not wanted.wanted:
                roster.let_stay()
                return True, None
            if known is not None and known.serves:
                self._hand_out(wanted, known)
                return True, None
            if roster.must_ask:
                return False, None
            fit = roster.place(entry) if known is None else None
            if fit is not None:
                self._hand_out(wanted, roster.begin(entry, fit, unloaded))
                return True, None
            # The keeper may be ending another model, whose memory may be enough.
            victim = known if known or roster.closing else roster.choose_victim()
            if victim is None and roster.stuck and not roster.closing:
                raise no_room(wanted.id)
            if victim is not None and victim.idle:
                roster.let_stay()
                self._keeper.take_out(victim)
                return True, victim
            self._changed.wait(POLL)

    def ask_lenders(self) -> None:
        """Find out what other machines lend, if models may borrow from them. This may take seconds,
        so the caller must not hold the lock."""
        with self._changed:
            borrows, since = self._roster.borrows, self._roster.lent_since
        if borrows:
            self._roster.lenders.refresh(since)

    def _hand_out(self, wanted: Wanted, loaded: LoadedModel) -> None:
        """Hand a model to the requests that wait for it, with a lease for each."""
        self._roster.let_stay()
        if wanted.keep_alive is not None:
            loaded.keep_alive = wanted.keep_alive
        self._keeper.watch()
        wanted.loaded = loaded
        loaded.leases += wanted.waiters
        del self._wanted[wanted.id]
        self._changed.notify_all()

    def _examine(self, entry: ModelEntry) -> None:
        """Examine a file before another model is unloaded for it.

        Raises:
            ModelLoadFailed: it cannot be loaded.
        """
        examination = Examination(load_command(self._settings, entry), self._settings.load_timeout)
        with self._changed:
            if self.draining:
                return
            self._examination = examination
        refusal = examination.run()
        # If the server is stopping, it killed the examination, which says nothing about the file.
        if refusal is None or self.draining:
            return
        message = f"The model {entry.id} cannot be loaded: {refusal.message}"
        with self._changed:
            self._roster.remember(entry, LoadFailure(message, refusal.lasting))
        log.error("%s No other model is unloaded for it.", message)
        raise ModelLoadFailed(message, "model")

    # --- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Load nothing more, and refuse new requests. Called with the lock held."""
        self.draining = True
        if self._examination is not None:
            self._examination.stop()
        self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait until the loader thread has ended. Called without the lock."""
        if self._loader is not None:
            self._loader.join(seconds)


def no_room(model_id: str) -> Overloaded:
    """Return the error for a model for which no other one can be unloaded."""
    return Overloaded(
        f"The model {model_id} cannot be loaded: all loaded models are pinned, and there is no "
        "room for another one (OFFGRID_MAX_MODELS, OFFGRID_MEMORY_BUDGET).",
        retry_after=LONGEST,
    )
