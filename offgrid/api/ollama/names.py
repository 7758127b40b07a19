"""Names of models as Ollama's clients write them: with a tag, which is ``latest`` if there is none.

A model of this server has no tags. Its name in lists ends with ``:latest``, because clients add
that to every name without a tag before they look it up in the list.
"""

from __future__ import annotations

import hashlib

from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ModelNotFound
from offgrid.store.survey import ModelEntry

_TAG = ":latest"


def with_tag(model_id: str) -> str:
    """Return the name under which a model is listed."""
    return model_id if ":" in model_id else model_id + _TAG


def without_tag(pool: EnginePool, name: str) -> str:
    """Return the name of a model as this server knows it.

    Args:
        pool: knows the models.
        name: as the client writes it; empty for the default model.
    """
    if not name.endswith(_TAG):
        return name
    try:
        pool.find(name)
    except ModelNotFound:
        return name.removesuffix(_TAG)
    return name


def digest_of(entry: ModelEntry) -> str:
    """Return 64 digits in hex that stay the same as long as a model's files are unchanged.

    Clients compare it, and print its beginning. It is made of the name, the sizes and the times of
    the files: to hash their content would take minutes.
    """
    return hashlib.sha256(f"{entry.id} {entry.stamp}".encode()).hexdigest()
