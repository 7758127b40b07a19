"""Finds the model of an LLM and loads it, with the settings that ``offgrid serve`` would use."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from offgrid.config import Settings, load_settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ConfigError, ModelNotFound
from offgrid.inprocess import options
from offgrid.peers.rpc import rpc_servers
from offgrid.startup import build_type_information
from offgrid.store.catalogue import STARTER_ID, Catalogue
from offgrid.store.pinned import PINNED

_QUEUE = 1024
"""Sequences that wait for a slot: threads of a program wait and are not refused."""
_NAMES = frozenset(options.Settings.__annotations__)
_prepared = threading.Lock()


def open_pool(
    model: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    given: Mapping[str, Any],
) -> EnginePool:
    """Return a pool whose default model is the wanted one, loaded.

    Args:
        model: an id, an alias or the beginning of an id; the path of a GGUF file; or an empty text
            for the default model.
        config: a file of settings; None for that of the environment.
        given: settings, which take precedence over the environment and the file.

    Raises:
        ConfigError: a setting is wrong, or the path is not that of a model.
        ModelNotFound: no model has that name.
        ModelLoadFailed: llama.cpp cannot load it.
    """
    settings = settings_for(model, config, given)
    catalogue = Catalogue(settings)
    catalogue.check()
    with _prepared:
        build_type_information()
    pool = EnginePool(settings, catalogue, servers=rpc_servers)
    try:
        pool.engine("")
    except BaseException:
        pool.shutdown(0.0)
        raise
    return pool


def settings_for(
    model: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    given: Mapping[str, Any],
) -> Settings:
    """Return the settings with the wanted model as the default model.

    Raises:
        ConfigError, ModelNotFound: see :func:`open_pool`.
    """
    for name in given:
        if name not in _NAMES:
            raise ConfigError(f"{name} is not a setting of LLM; it has {', '.join(sorted(_NAMES))}")
    # These matter only to a server, which has several models and refuses clients. The model of a
    # program stays loaded until the program closes it.
    only_here = {"queue_size": _QUEUE, "max_models": 1, "queue_timeout": 0}
    # A program does not write what it works on to disk unless it says so.
    flags = {"keep_alive": -1, "cache_disk_mb": 0, **given, **only_here}
    file = None if config is None else os.fspath(config)
    settings = load_settings(flags, config_file=file)
    name = os.fspath(model)
    if not name:
        return settings
    if name == STARTER_ID:
        return replace(settings, model=name)
    path = Path(name).expanduser()
    if _is_path(model, path):
        return _with_file(settings, path)
    try:
        catalogue = Catalogue(replace(settings, model=""))
        catalogue.check_folder()
        entry = catalogue.get(name)
    except ModelNotFound as ex:
        if os.path.lexists(path):
            return _with_file(settings, path)
        if name.casefold() in {pinned.name for pinned in PINNED}:
            advice = f"{ex.message} Fetch it with: offgrid get {name.casefold()}"
            raise ModelNotFound(name, advice.partition(". ")[2]) from None
        raise
    return replace(settings, model=entry.id)


def _is_path(model: str | os.PathLike[str], path: Path) -> bool:
    """Whether a name can only be a path: ids have no separators."""
    return not isinstance(model, str) or len(path.parts) > 1


def _with_file(settings: Settings, path: Path) -> Settings:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give models_dir, or the path of a GGUF file")
    return replace(settings, model="", model_paths=(path,))
