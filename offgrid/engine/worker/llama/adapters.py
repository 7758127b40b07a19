"""LoRA adapters: small matrices that llama.cpp adds to the weights of a model as it computes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lc

from offgrid.engine.protocol.commands import Adapter
from offgrid.engine.worker.llama.errors import LoadError


class Adapters:
    """The adapters of a model, for all of its contexts. They are freed with the model.

    Args:
        model: the loaded model.
        files: the adapters.

    Raises:
        LoadError: a file is missing, or is no LoRA adapter of this model.
    """

    def __init__(self, model: lc.llama_model_p, files: Sequence[Adapter]) -> None:
        loaded = [_load(model, file.path) for file in files]
        self._pointers = (lc.llama_adapter_lora_p_ctypes * len(files))(*loaded)
        self._scales = (ctypes.c_float * len(files))(*(file.scale for file in files))

    def apply(self, context: lc.llama_context_p) -> None:
        """Use the adapters in a context (``llama_set_adapters_lora``).

        Raises:
            LoadError: llama.cpp refuses them.
        """
        count = len(self._scales)
        if count and lc.llama_set_adapters_lora(context, self._pointers, count, self._scales) != 0:
            raise LoadError("llama.cpp does not use its adapters.", lasting=True)


def _load(model: lc.llama_model_p, name: str) -> lc.llama_adapter_lora_p:
    path = Path(name)
    if not path.is_file():
        raise LoadError(f"its adapter {path.name} is not there any more.")
    adapter = lc.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise LoadError(
            f"its adapter {path.name} does not fit this model; give it the model that it was "
            "trained for.",
            lasting=True,
        )
    # Such an adapter may act only after certain tokens of the prompt, so the tokens before them
    # would have to be computed without it.
    if lc.llama_adapter_get_alora_n_invocation_tokens(adapter):
        raise LoadError(
            f"its adapter {path.name} is an activated LoRA (aLoRA), which this server cannot use.",
            lasting=True,
        )
    return adapter
