"""Examines a model file: can it be loaded, as far as that is known without reading its weights?"""

from __future__ import annotations

import os
from pathlib import Path

import llama_cpp.llama_cpp as lc

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.draft import cannot_cut, check_vocabulary
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.kv_types import check_kv_types
from offgrid.engine.worker.llama.same_vocabulary import Named


def examine(load: Load) -> None:
    """Read the metadata, vocabulary and tensor list of a file, and check them against each other
    and against the file's size (``no_alloc`` of ``llama_model_params``).

    This takes milliseconds and hardly any memory, so it is possible while other models are loaded.

    The vocabulary of a draft model is compared with that of the model.

    Raises:
        LoadError: the file, or that of the draft model, cannot be loaded or used.
    """
    lc.llama_backend_init()
    path = Path(load.path)
    model = _without_weights(path)
    try:
        if lc.llama_model_is_diffusion(model):
            raise LoadError("this kind of model does not generate text token by token.")
        check_kv_types(model, load)
        if load.draft_model is not None:
            _examine_draft(Named(path.name, model), Path(load.draft_model))
    finally:
        lc.llama_model_free(model)


def _examine_draft(main: Named, path: Path) -> None:
    try:
        model = _without_weights(path)
    except LoadError as ex:
        raise LoadError(f"its draft model {path.name}: {ex}") from None
    try:
        draft = Named(path.name, model)
        check_vocabulary(main, draft)
        for named in (main, draft):
            if lc.llama_model_is_recurrent(named.model) or lc.llama_model_is_hybrid(named.model):
                raise cannot_cut(named.name, main.name)
    finally:
        lc.llama_model_free(model)


def _without_weights(path: Path) -> lc.llama_model_p:
    if not path.is_file():
        raise LoadError(f"{path.name} is not there any more.")
    params = lc.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = lc.LLAMA_LOAD_MODE_NONE  # do not map the file either
    params.n_gpu_layers = 0
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadError(f"llama.cpp does not load {path.name}.")
    return model
