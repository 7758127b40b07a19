"""The sizes of a model of 8 billion parameters, to simulate how it fits into memory."""

from __future__ import annotations

from offgrid.engine.memory import MIB
from offgrid.store.sizes import ModelSizes

AVX2 = {"Q4_0": 8}
LLAMA_8B = ModelSizes(
    data=4_357 * 10**6,
    matrices={("Q4_0", 8): 3744 * MIB, ("Q6_K", 8): 411 * MIB},
    embedding=411 * MIB,
    embedding_type="Q6_K",
    tied=True,
    vocabulary=128_256,
    merges=128_000,
    context=131_072,
    width=4096,
    hidden=14_336,
    heads=32,
    queries=4096,
    keys=32 * 1024,
    values=32 * 1024,
    padded_values=32 * 1024,
)
"""The shape of Llama 3.1 8B, with tied embeddings, in Q4_0."""
