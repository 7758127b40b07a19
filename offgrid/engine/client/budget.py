"""How much memory further models may take, next to those that are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from offgrid.config import Settings
from offgrid.engine.client.fit import UNLIMITED, Candidate, Fit, choose, measure, refusal
from offgrid.engine.client.spread import Lent, place_of
from offgrid.engine.memory import MIB, free_memory, resident
from offgrid.errors import ModelLoadFailed


class Taking(Protocol):
    """A model that is loaded or loading."""

    @property
    def fit(self) -> Fit:
        """How it was loaded."""

    @property
    def pid(self) -> int | None:
        """The process id of its worker; None if there is none."""

    @property
    def ready_since(self) -> float | None:
        """When it was loaded, in monotonic seconds; None while it loads."""

    @property
    def pinned(self) -> bool:
        """Whether it is never unloaded for another one."""


class Budget:
    """Compares what a model needs with what is free.

    A model that is loading, or has not computed a full context yet, holds less than it will need.
    The difference is kept for it. Memory of other machines is compared in the same way: what a
    server lends is known from its last answer, in which models that were still loading may not
    count yet.

    Args:
        limit: bytes that all models together may take; None for what is free, 0 for no limit.
        free: returns the bytes that are free for further processes.
        held: returns the bytes that a process holds.
    """

    def __init__(
        self,
        limit: int | None,
        free: Callable[[], int] = free_memory,
        held: Callable[[int], int] = resident,
    ) -> None:
        self._limit = limit
        self._free = free
        self._held = held

    def place(
        self,
        candidate: Candidate,
        models: Iterable[Taking],
        closing: bool,
        returning: bool = False,
    ) -> Fit | None:
        """Return how a model can be loaded now; None if others must be unloaded first.

        Args:
            candidate: the model.
            models: all that are loaded or loading.
            closing: whether the memory of further ones has not been freed yet.
            returning: whether other machines may still be freeing memory that was borrowed.

        Raises:
            ModelLoadFailed: it does not fit even if only pinned models are loaded.
        """
        taking = [*models]
        if closing and self._limit:
            return None  # the budget still holds the old model
        loose = [one for one in taking if not one.pinned]
        # Another model is unloaded rather than this one gets a short context, or memory of another
        # machine, which makes it slow.
        borrow = not (loose or closing)
        beside = replace(candidate, lent=_lent_beside(candidate.lent, taking))
        free = self._now(taking)
        fit = choose(beside, free, shorten=borrow and not returning, borrow=borrow)
        if returning and fit is not None and fit.borrowed and "parallel" in fit.lowered:
            return None  # it may get more slots in a moment
        if fit is not None or closing or returning:
            return fit
        alone = self._alone(taking)
        candidate = replace(candidate, lent=_lent_alone(candidate.lent, taking))
        if not loose or choose(candidate, alone) is None:
            name = Path(candidate.load.path).name
            raise ModelLoadFailed(
                f"The model {candidate.name or name} cannot be loaded: {refusal(candidate, alone)}",
                "model",
            )
        return None

    def preview(self, candidate: Candidate, models: Iterable[Taking] = ()) -> Fit:
        """Return how a model would be loaded now, if necessary instead of all others. If it does
        not fit, how its settings say; then it needs more than is free."""
        taking = [*models]
        alone = self._alone(taking)
        beside = replace(candidate, lent=_lent_beside(candidate.lent, taking))
        candidate = replace(candidate, lent=_lent_alone(candidate.lent, taking))
        now = choose(beside, self._now(taking), shorten=not taking, borrow=not taking)
        fit = now or choose(candidate, alone)
        return fit or measure(candidate, candidate.load, alone)

    def _now(self, taking: list[Taking], freed: int = 0) -> int:
        """Return what is free next to these models, after ``freed`` bytes more have become so."""
        if self._limit == 0:
            return UNLIMITED
        promised = sum(max(0, one.fit.keeps - self._holds(one)) for one in taking)
        free = max(0, self._free() + freed - promised)
        if self._limit is None:
            return free
        return min(free, max(0, self._limit - sum(one.fit.needs for one in taking)))

    def _alone(self, taking: list[Taking]) -> int:
        """Return what would be free if no model but the pinned ones were loaded."""
        pinned = [one for one in taking if one.pinned]
        freed = sum(self._holds(one) for one in taking if not one.pinned)
        return self._now(pinned, freed)

    def _holds(self, one: Taking) -> int:
        pid = one.pid
        return 0 if pid is None else self._held(pid)


def _lent_beside(lent: tuple[Lent, ...], taking: list[Taking]) -> tuple[Lent, ...]:
    """Return what is lent next to these models."""

    def taken(one: Lent) -> int:
        uncounted = [
            model for model in taking if model.ready_since is None or model.ready_since > one.asked
        ]
        return _borrowed(one, uncounted)

    return tuple(replace(one, free=max(0, one.free - taken(one))) for one in lent)


def _lent_alone(lent: tuple[Lent, ...], taking: list[Taking]) -> tuple[Lent, ...]:
    """Return what would be lent if no model but the pinned ones were loaded. That is too much if
    one was not loaded yet when its server was asked; the server is asked again before such a model
    is unloaded."""
    loose = [one for one in taking if not one.pinned]

    def freed(one: Lent) -> Lent:
        size = _borrowed(one, loose)
        # ggml's own server gives no answer while it serves a model.
        busy = size > 0 and not one.server.is_peer
        return replace(one, free=one.free + size, problem="" if busy else one.problem)

    beside = _lent_beside(lent, [one for one in taking if one.pinned])
    return tuple(freed(one) for one in beside)


def _borrowed(lent: Lent, models: list[Taking]) -> int:
    """Return the bytes that models borrow from a server."""
    place = place_of(lent.server)
    return sum(
        part.size
        for model in models
        for part in model.fit.borrowed
        if place_of(part.server) == place
    )


def budget_limit(settings: Settings) -> int | None:
    """Return the limit that the settings give a :class:`Budget`."""
    return None if settings.memory_budget < 0 else settings.memory_budget * MIB


def file_size(path: Path | str | None) -> int:
    """Return the bytes of a file; 0 if there is none."""
    try:
        return 0 if path is None else os.stat(path).st_size
    except OSError:
        return 0
