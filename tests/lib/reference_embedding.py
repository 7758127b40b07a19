"""Embeddings by definition, directly from llama.cpp: one input, one context, every state."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def embedding_of(path: str | Path, tokens: list[int], pooling: str) -> Vector:
    """Return the pooled and normalised states of an input, or its score from a ranking model."""
    weights = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
    params = lc.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = len(tokens)
    params.embeddings = True
    # Same setting as the worker at this size: flash attention rounds to half precision.
    params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # Only a score needs llama.cpp's own head; other pooling is computed here.
    ranks = pooling == "rank"
    params.pooling_type = lc.LLAMA_POOLING_TYPE_RANK if ranks else lc.LLAMA_POOLING_TYPE_NONE
    context = lc.llama_init_from_model(weights, params)
    try:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = lc.llama_batch_get_one(ids, len(tokens))
        wanted = (ctypes.c_int8 * len(tokens))(*[1] * len(tokens))
        batch.logits = ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8))
        assert lc.llama_decode(context, batch) == 0
        if ranks:
            return np.array(lc.llama_get_embeddings_seq(context, 0)[:1])
        width = lc.llama_model_n_embd(weights)
        states = np.array(
            [lc.llama_get_embeddings_ith(context, i)[:width] for i in range(len(tokens))]
        )
    finally:
        lc.llama_free(context)
        lc.llama_model_free(weights)
    vector = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[pooling]
    return vector / np.linalg.norm(vector)
