"""Embeddings and scores: a second context over the weights of a model."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

from offgrid.engine.attention import Choice
from offgrid.engine.kv_types import PLAIN
from offgrid.engine.memory import free_memory
from offgrid.engine.worker.llama.batch import Batch
from offgrid.engine.worker.llama.errors import INVALID_BATCH, DecodeError, LoadError
from offgrid.engine.worker.llama.weights import MAX_UBATCH, Weights, set_attention

_SEQUENCES = 64
"""Most inputs in one batch. More short inputs would not be computed any faster."""
_MAX_LOGITS = 64 * 1024 * 1024
"""Most bytes of the unused logits of a batch; llama.cpp holds them twice."""
_MIN_BATCH = 32
_POOLING_TYPES = {
    "none": lc.LLAMA_POOLING_TYPE_NONE,
    "mean": lc.LLAMA_POOLING_TYPE_MEAN,
    "cls": lc.LLAMA_POOLING_TYPE_CLS,
    "last": lc.LLAMA_POOLING_TYPE_LAST,
    "rank": lc.LLAMA_POOLING_TYPE_RANK,
}


class EmbeddingContext:
    """A context over a model's weights that computes the states of tokens, or pooled vectors.

    All sequences share the cells of its memory. If tokens attend to later tokens, or a
    classification head scores an input, a sequence must be in one batch (:attr:`whole`), and
    llama.cpp pools the states. Otherwise inputs come in chunks, and the caller pools the states.

    Attributes:
        capacity: most tokens in one :meth:`decode`.
        n_cells: most tokens of all sequences that are begun.
        n_sequences: most sequences at once.

    Raises:
        LoadError: the context does not fit into memory.
    """

    def __init__(self, weights: Weights, batch_size: int) -> None:
        self.needs_whole_input = not weights.causal or weights.pooling == "rank"
        self.n_embd = 1 if weights.pooling == "rank" else weights.n_embd
        self.n_cells = weights.n_ctx
        # A recurrent model needs memory for the state of each sequence, even if it is unused.
        n_sequences = weights.n_parallel if weights.recurrent else _SEQUENCES
        # llama.cpp also computes and keeps the logits of all tokens.
        room = max(_MIN_BATCH, _MAX_LOGITS // (4 * weights.n_vocab))
        chunk = min(batch_size, MAX_UBATCH, room, weights.n_ctx)
        self.capacity = weights.n_ctx if self.needs_whole_input else chunk
        self.n_sequences = min(n_sequences, self.capacity)
        self.kv_bytes = weights.estimate_kv_bytes(self.n_cells) if weights.causal else 0
        self._check_room(weights)
        params = lc.llama_context_default_params()
        params.n_ctx = self.n_cells
        params.n_batch = params.n_ubatch = self.capacity
        params.n_seq_max = self.n_sequences
        params.kv_unified = True
        params.embeddings = True
        fixed = weights.fixed_attention(self.capacity, values=PLAIN)
        set_attention(params, fixed or Choice(False, "the default for inputs"))
        params.pooling_type = _POOLING_TYPES[weights.pooling if self.needs_whole_input else "none"]
        self._context = weights.new_context(params)
        self._threads = weights.n_threads
        self._memory = lc.llama_get_memory(self._context)
        self.batch = Batch(self.capacity, self.n_sequences, weights.n_vocab)

    def _check_room(self, weights: Weights) -> None:
        # Encoders have no logits.
        logits = 2 * 4 * self.capacity * weights.n_vocab if weights.causal else 0
        available = free_memory()
        if self.kv_bytes + logits > available:
            raise LoadError(
                f"embeddings of inputs up to {weights.n_ctx} tokens need about "
                f"{(self.kv_bytes + logits) / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are "
                "free; lower OFFGRID_CTX_SIZE (--ctx-size)."
            )

    def close(self) -> None:
        """Free the context. Idempotent."""
        if self._context is not None:
            lc.llama_free(self._context)
            self._context = None

    def use_threads(self, number: int) -> None:
        """Set the number of threads that compute the next decodes (``llama_set_n_threads``)."""
        if number != self._threads:
            self._threads = number
            lc.llama_set_n_threads(self._context, number, number)

    def decode(self) -> None:
        """Compute the filled :attr:`batch`.

        Raises:
            DecodeError: llama.cpp failed; :meth:`forget` every sequence of the batch.
        """
        self.batch.want_all()
        code = lc.llama_decode(self._context, self.batch.struct())
        if code != 0:
            raise DecodeError(int(code))

    def states(self, first: int, count: int) -> NDArray[np.float32]:
        """Return a copy of the last hidden states at batch positions, (count, n_embd)."""
        address = ctypes.cast(lc.llama_get_embeddings(self._context), ctypes.c_void_p).value
        if not address:
            raise DecodeError(INVALID_BATCH)
        return _copy_floats(address + 4 * first * self.n_embd, count, self.n_embd)

    def pooled(self, sequence: int) -> NDArray[np.float32]:
        """Return a copy of the vector (n_embd,) or score (1,) of a sequence in the batch."""
        pointer = lc.llama_get_embeddings_seq(self._context, sequence)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise DecodeError(INVALID_BATCH)
        return _copy_floats(address, 1, self.n_embd).ravel()

    def forget(self, sequence: int) -> None:
        """Free the cells of a sequence; encoder models have none."""
        if not 0 <= sequence < self.n_sequences:
            raise ValueError(f"sequence {sequence} is outside 0..{self.n_sequences - 1}")
        if self._memory:
            lc.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def _copy_floats(address: int, rows: int, columns: int) -> NDArray[np.float32]:
    values = np.ctypeslib.as_array((ctypes.c_float * (rows * columns)).from_address(address))
    return np.array(values, dtype=np.float32).reshape(rows, columns)
