"""Models of peers in the lists of models."""

from __future__ import annotations

from typing import Any

from offgrid.api.http.caller import caller
from offgrid.api.peers.forward import allowed_ids, find
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ModelOnPeer
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.peers.forwarding.known import Found
from offgrid.store.catalogue import nearest
from offgrid.store.survey import listed as named


def of_peers(forwarding: Forwarding | None, pool: EnginePool) -> list[Found]:
    """Return the models that only peers have and the caller of this request may use, sorted by
    id."""
    if forwarding is None:
        return []
    listed, models = forwarding.where.listed(), caller().models
    if listed and models is not None:
        allowed = allowed_ids(forwarding, pool, models)
        listed = [found for found in listed if found.model.id in allowed]
    own = pool.all_names() if listed else frozenset[str]()
    return [found for found in listed if found.model.id not in own]


def find_listed(forwarding: Forwarding | None, pool: EnginePool, name: str) -> Found | None:
    """Return the model of a peer that a name means; None if it means none, or one of this machine.

    Raises:
        ModelForbidden: the caller of this request may not use the model.
    """
    found = find(forwarding, pool, name)
    return found[0] if found else None


def listed(found: Found) -> dict[str, Any]:
    """Return the object of a model in the list."""
    model = found.model
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": found.peer.name,
        "size": model.size,
        "kind": model.kind,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "quantization": model.quantization,
        "context_length": model.context_length,
        "vision": model.vision,
        "tools": model.tools,
        "reasoning": model.reasoning,
        "aliases": [*model.aliases],
        "base": None,
        "status": model.status if found.connected else "failed",
        "progress": 1.0 if found.connected and model.status == "loaded" else 0.0,
        "default": False,
        "pinned": False,
        "fixed": [],
        "peer": found.peer.id,
    }


def details(found: Found) -> dict[str, Any]:
    """Return the whole object of a model: what its peer does not tell is null."""
    name = found.peer.name
    return {
        **listed(found),
        "chat_format": None,
        "sha256": found.model.sha256,
        "problem": None if found.connected else f"The peer {name} cannot be reached.",
        "memory": None,
        "settings": None,
    }


def advice(forwarding: Forwarding, name: str) -> str:
    """Return a sentence with the models of peers, for a name that means no model; empty if there
    are none. Callers with certain models get another sentence, and a peer, which cannot use the
    models of other peers, does not learn of them."""
    if caller().is_machine:
        return ""
    ids = nearest(name, [found.model.id for found in forwarding.where.listed()])
    return f"The models of peers are: {named(ids)}." if ids else ""


def refuse_change(forwarding: Forwarding | None, pool: EnginePool, name: str) -> None:
    """Refuse a request that changes a model, if the model is a peer's.

    Raises:
        ModelOnPeer: it is.
        ModelForbidden: the caller of this request may not use the model.
    """
    found = find_listed(forwarding, pool, name)
    if found is not None:
        raise ModelOnPeer(found.model.id, found.peer.name)
