"""Examines a model file: can it be loaded, as far as that is known without reading its weights?"""

from __future__ import annotations

import os
from pathlib import Path

import llama_cpp.llama_cpp as lc

from offgrid.engine.protocol import Load
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.kv_types import check_kv_types


def examine(load: Load) -> None:
    """Read the metadata, vocabulary and tensor list of a file, and check them against each other
    and against the file's size (``no_alloc`` of ``llama_model_params``).

    This takes milliseconds and hardly any memory, so it is possible while other models are loaded.

    Raises:
        LoadError: the file cannot be loaded.
    """
    lc.llama_backend_init()
    path = Path(load.path)
    if not path.is_file():
        raise LoadError(f"{path.name} is not there any more.")
    params = lc.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = lc.LLAMA_LOAD_MODE_NONE  # do not map the file either
    params.n_gpu_layers = 0
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadError(f"llama.cpp does not load {path.name}.")
    try:
        if lc.llama_model_is_diffusion(model):
            raise LoadError("this kind of model does not generate text token by token.")
        check_kv_types(model, load)
    finally:
        lc.llama_model_free(model)
