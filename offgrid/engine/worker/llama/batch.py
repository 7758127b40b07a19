"""The tokens of one ``llama_decode``."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray


class Batch:
    """The arrays of a ``llama_batch``, allocated once and refilled for every decode."""

    def __init__(self, capacity: int, n_slots: int, n_vocab: int) -> None:
        self.capacity = capacity
        self._n_slots = n_slots
        self._n_vocab = n_vocab
        self._size = 0
        self._token = np.zeros(capacity, dtype=np.int32)
        self._pos = np.zeros(capacity, dtype=np.int32)
        self._n_seq_id = np.ones(capacity, dtype=np.int32)
        self._seq_id = np.zeros(capacity, dtype=np.int32)
        self._want = np.zeros(capacity, dtype=np.int8)
        # One sequence per token: each pointer points to the id at the same index.
        self._seq_ptr = self._seq_id.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._positions = np.arange(capacity, dtype=np.int32)
        self._struct = lc.llama_batch(
            0,
            _pointer(self._token, ctypes.c_int32),
            None,
            _pointer(self._pos, ctypes.c_int32),
            _pointer(self._n_seq_id, ctypes.c_int32),
            ctypes.cast(self._seq_ptr.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            _pointer(self._want, ctypes.c_int8),
        )

    def __len__(self) -> int:
        """The number of tokens."""
        return self._size

    @property
    def slots(self) -> NDArray[np.int32]:
        """The slot of each token, ``(tokens,)``; a copy."""
        return self._seq_id[: self._size].copy()

    def clear(self) -> None:
        """Begin a new batch."""
        self._size = 0

    def add(self, slot: int, start: int, tokens: NDArray[np.int32], n_logits: int) -> int:
        """Append tokens of a slot at positions from ``start``; return the last token's index.

        Logits are computed for the last ``n_logits`` of them.
        """
        first, last = self._size, self._size + len(tokens)
        if not len(tokens) or last > self.capacity:
            raise ValueError(f"{len(tokens)} tokens do not fit a batch of {self.capacity}")
        if not 0 <= n_logits <= len(tokens):
            raise ValueError(f"{len(tokens)} tokens have no {n_logits} rows of logits")
        if not 0 <= slot < self._n_slots or start < 0:
            raise ValueError(f"slot {slot} or position {start} does not exist")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self._n_vocab:
            raise ValueError("a token id is outside the vocabulary")
        self._token[first:last] = tokens
        self._pos[first:last] = self._positions[: len(tokens)] + start
        self._seq_id[first:last] = slot
        self._want[first:last] = 0
        self._want[last - n_logits : last] = 1
        self._size = last
        return last - 1

    def add_each(
        self, slots: list[int], positions: list[int], tokens: list[int], want: list[bool]
    ) -> range:
        """Append one token for each of several slots; return their indices.

        Logits are computed where ``want`` is true. The effect is that of one :meth:`add` for each,
        but in one call: most steps need nothing else.
        """
        first, last = self._size, self._size + len(slots)
        if last > self.capacity:
            raise ValueError(f"{len(slots)} tokens do not fit a batch of {self.capacity}")
        if not slots:
            return range(first, first)
        if min(slots) < 0 or max(slots) >= self._n_slots or min(positions) < 0:
            raise ValueError("a slot or a position does not exist")
        if min(tokens) < 0 or max(tokens) >= self._n_vocab:
            raise ValueError("a token id is outside the vocabulary")
        self._token[first:last] = tokens
        self._pos[first:last] = positions
        self._seq_id[first:last] = slots
        self._want[first:last] = want
        self._size = last
        return range(first, last)

    def want_all(self) -> None:
        """Request an output for every token."""
        self._want[: self._size] = 1

    def struct(self) -> lc.llama_batch:
        """Return the C structure that points to the arrays and borrows them."""
        self._struct.n_tokens = self._size
        return self._struct


def _pointer(array: NDArray[np.generic], ctype: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctype))
