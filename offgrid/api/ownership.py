"""What the caller of the request that a thread serves owns, and which models it may use.

Call these functions while the request is being answered, on its thread; what is stored later, on
another thread, needs the :class:`~offgrid.store.file.Owner` from here.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from offgrid.api.http.access import check_scope
from offgrid.api.http.caller import caller
from offgrid.api.http.refusals import ModelForbidden
from offgrid.caller import Caller
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ModelNotFound
from offgrid.store.file import Owner
from offgrid.store.survey import ModelEntry


def owner_of(caller: Caller) -> Owner:
    """Return whose stored objects a caller sees: its own.

    Without keys there is one owner for all. What was stored then is visible to keys with ``admin``.
    """
    return Owner(caller.id, shared=caller.may("admin")) if caller.has_key else Owner()


T = TypeVar("T")


class Owned(Protocol):
    """A store of objects that belong to owners."""

    def of(self: T, owner: Owner) -> T:
        """Return the same store as an owner sees it."""


S = TypeVar("S", bound=Owned)


def own(store: S) -> S:
    """Return a store as the caller of this request sees it."""
    return store.of(owner_of(caller()))


def keeps_history() -> bool:
    """Return whether the caller of this request may store responses."""
    return caller().may("history")


def check_history() -> None:
    """Raise Forbidden unless the caller of this request may store and read responses."""
    check_scope(caller(), ("history",))


def is_allowed(pool: EnginePool, entry: ModelEntry) -> bool:
    """Return whether the caller of this request may use a model."""
    models = caller().models
    return models is None or not models.isdisjoint(pool.names(entry))


def check_model(pool: EnginePool, name: str) -> None:
    """Refuse a model that the caller of this request may not use.

    A caller with certain models learns of no others, so the usual advice about an unknown model,
    which names others, is left out.

    Args:
        pool: knows the models.
        name: what the request calls the model; empty for the default model.

    Raises:
        ModelForbidden: the model is not for this caller.
        ModelNotFound: no such model.
    """
    models = caller().models
    if models is None:
        return
    try:
        entry = pool.find(name)
    except ModelNotFound:
        raise ModelNotFound(name, _listed(models)) from None
    if not is_allowed(pool, entry):
        raise ModelForbidden(caller(), name, models)


def _listed(models: frozenset[str]) -> str:
    who = caller()
    whose = f"that the machine {who.name} may use" if who.is_machine else "of this key"
    return f"The models {whose} are: {', '.join(sorted(models))}."
