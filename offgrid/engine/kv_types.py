"""The types that keys and values may have in llama.cpp's cache, and how much memory they take.

The names are those of the settings ``kv_type_k`` and ``kv_type_v``. A quantised type stores blocks
of 32 elements with a common scale, so it fits only heads whose size is a multiple of that.
"""

from __future__ import annotations

BLOCK = 32
"""Elements of a block of each quantised type (``QK4_0`` and others in ``ggml-common.h``)."""
PLAIN = "f16"
"""The default, and the type in the cache of embeddings."""
_PLAIN_TYPES = ("f16", "f32", "bf16")
_BLOCK_BYTES = {
    "f16": 2 * BLOCK, "f32": 4 * BLOCK, "bf16": 2 * BLOCK,
    "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18,
}  # fmt: skip
"""Bytes of 32 elements of each type (``ggml_type_size``)."""
KV_TYPES = tuple(_BLOCK_BYTES)


def is_quantised(kv_type: str) -> bool:
    """Return whether a type stores blocks of elements."""
    return kv_type not in _PLAIN_TYPES


def bytes_of(kv_type: str, elements: int) -> int:
    """Return the bytes that so many elements take."""
    return elements * _BLOCK_BYTES[kv_type] // BLOCK


def written(keys: str, values: str) -> str:
    """Return both types for a message: ``f16``, or ``q8_0 keys and f16 values``."""
    return keys if keys == values else f"{keys} keys and {values} values"
