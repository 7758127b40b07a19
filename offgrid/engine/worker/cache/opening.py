"""Opens the tiers of a model that is being loaded."""

from __future__ import annotations

import logging
from pathlib import Path

from offgrid.engine.memory import MIB
from offgrid.engine.worker.cache.files import PrefixFiles
from offgrid.engine.worker.cache.key import cache_key
from offgrid.engine.worker.cache.tiers import Tiers
from offgrid.engine.worker.llama.build import identity
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.tensors import parts_of

log = logging.getLogger(__name__)


def open_tiers(model: Model) -> Tiers | None:
    """Return the tiers that the model's load command asks for; None if it asks for none, or if
    states of this model cannot be restored."""
    load = model.load
    if not model.can_save or (load.cache_ram <= 0 and (load.cache_disk == 0 or not load.cache_dir)):
        return None
    return Tiers(model.can_cut, max(0, load.cache_ram) * MIB, _open_files(model))


def _open_files(model: Model) -> PrefixFiles | None:
    load = model.load
    if not load.cache_dir or load.cache_disk == 0:
        return None
    try:
        parts = list(parts_of(Path(load.path)))
        known = load.sha256 if len(parts) == 1 else ""
        key = cache_key(
            [(part, known) for part in parts],
            [(Path(adapter.path), adapter.scale) for adapter in load.adapters],
            model.context_parameters,
            identity(),
        )
    except OSError as ex:
        log.warning("prefixes of %s are not saved on disk: %s", Path(load.path).name, ex)
        return None
    limit = load.cache_disk * MIB if load.cache_disk > 0 else -1
    return PrefixFiles(Path(load.cache_dir), key, limit)
