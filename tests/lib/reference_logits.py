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
    """One context of a model file that computes only whole prompts.

    ``lora`` is an adapter with its scale.
    """

    def __init__(
        self, path: Path, n_ctx: int = 512, lora: tuple[Path, float] | None = None
    ) -> None:
        # Other attention kernels and other layouts of the weights round differently.
        model_params = lc.llama_model_default_params()
        model_params.use_extra_bufts = b"AMX_INT8 = 1" not in lc.llama_print_system_info()
        self._model = lc.llama_model_load_from_file(str(path).encode(), model_params)
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = n_ctx
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 1
        self._context = lc.llama_init_from_model(self._model, params)
        if lora is not None:
            adapter = lc.llama_adapter_lora_init(self._model, str(lora[0]).encode())
            pointers = (lc.llama_adapter_lora_p_ctypes * 1)(adapter)
            scales = (ctypes.c_float * 1)(lora[1])
            assert lc.llama_set_adapters_lora(self._context, pointers, 1, scales) == 0
        self._n_ctx = n_ctx
        self._vocab = lc.llama_model_get_vocab(self._model)
        self._n_vocab = lc.llama_vocab_n_tokens(self._vocab)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, with those that the model expects around it."""
        data = text.encode()
        ids = (lc.llama_token * (len(data) + 8))()
        count = lc.llama_tokenize(self._vocab, data, len(data), ids, len(ids), True, False)
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens have none."""
        buffer = ctypes.create_string_buffer(256)
        length = lc.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:length]

    def greedy(self, tokens: list[int], n: int) -> tuple[list[int], NDArray[np.float64]]:
        """The ``n`` likeliest tokens one after the other, and the log-probabilities of each."""
        self._clear()
        answer: list[int] = []
        rows = []
        # llama.cpp computes end tokens as well as others, but an answer does not contain them.
        ends = [i for i in range(self._n_vocab) if lc.llama_vocab_is_eog(self._vocab, i)]
        new = tokens
        for _ in range(n):
            (row,) = self._decode(new, len(tokens) + len(answer) - len(new), whole=False)
            rows.append(row)
            allowed = row.copy()
            allowed[ends] = -np.inf
            new = [int(allowed.argmax())]
            answer += new
        return answer, np.array(rows)

    def log_probabilities(self, tokens: list[int]) -> NDArray[np.float64]:
        """Row ``i`` has those of every token of the vocabulary after ``tokens[: i + 1]``."""
        self._clear()
        return self._decode(tokens, 0, whole=True)

    def _clear(self) -> None:
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)

    def _decode(self, tokens: list[int], start: int, *, whole: bool) -> NDArray[np.float64]:
        """Compute tokens from a position on; return the rows of all or of the last one."""
        batch = lc.llama_batch_init(len(tokens), 0, 1)
        wanted = range(len(tokens)) if whole else [len(tokens) - 1]
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, i in wanted
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
                for i in wanted
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
