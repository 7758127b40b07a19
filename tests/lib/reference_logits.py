"""A model's log-probabilities for a text, directly from llama.cpp, in double precision."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute it for each row."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


class ReferenceModel:
    """One context of a model file that computes only whole prompts."""

    def __init__(self, path: Path, n_ctx: int = 512) -> None:
        # Other attention kernels and other layouts of the weights round differently.
        model_params = lc.llama_model_default_params()
        model_params.use_extra_bufts = b"AMX_INT8 = 1" not in lc.llama_print_system_info()
        self._model = lc.llama_model_load_from_file(str(path).encode(), model_params)
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = n_ctx
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 1
        self._context = lc.llama_init_from_model(self._model, params)
        self._n_ctx = n_ctx
        self._n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))

    def log_probabilities(self, tokens: list[int]) -> NDArray[np.float64]:
        """Row ``i`` has those of every token of the vocabulary after ``tokens[: i + 1]``."""
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        batch = lc.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
            assert lc.llama_decode(self._context, batch) == 0
            rows = [
                np.ctypeslib.as_array(
                    ctypes.cast(
                        lc.llama_get_logits_ith(self._context, i), ctypes.POINTER(ctypes.c_float)
                    ),
                    (self._n_vocab,),
                )
                for i in range(len(tokens))
            ]
            return log_softmax(np.array(rows))
        finally:
            lc.llama_batch_free(batch)

    def of_tokens(self, tokens: list[int]) -> NDArray[np.float64]:
        """The logprob of each token but the first, given the tokens before it."""
        rows = self.log_probabilities(tokens)
        return rows[np.arange(len(tokens) - 1), tokens[1:]]

    def close(self) -> None:
        lc.llama_free(self._context)
        lc.llama_model_free(self._model)
