"""Makes LoRA adapters for the tiny llama of ``tiny_models.py``, as GGUF files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tiny_models import finish, models

RANK = 4
STRENGTH = 3.0
"""Size of the changes: enough that the likeliest tokens are others."""


def make_lora(
    folder: Path,
    name: str = "lora",
    *,
    seed: int = 5,
    architecture: str = "llama",
    kind: str = "adapter",
    width: int | None = None,
    block: int = 0,
    invocation: list[int] | None = None,
) -> Path:
    """Return a new adapter with random matrices.

    Args:
        folder: where the file is made.
        name: its name without ``.gguf``.
        seed: of its matrices.
        architecture: of the models that it is for.
        kind: its ``general.type``.
        width: of the models that it is for; that of the tiny llama if omitted.
        block: the layer that it changes.
        invocation: tokens after which it acts (an activated LoRA).
    """
    shape = models.RECIPES["small-llama"].shape
    width = width or shape.width
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    if invocation is not None:
        writer.add_key_value(
            "adapter.alora.invocation_tokens",
            invocation,
            gguf.GGUFValueType.ARRAY,
            sub_type=gguf.GGUFValueType.UINT32,
        )
    rng = np.random.default_rng(seed)
    for part, rows, columns in (("attn_q", width, width), ("ffn_down", width, shape.hidden)):
        for end, size in (("lora_a", (RANK, columns)), ("lora_b", (rows, RANK))):
            values = rng.standard_normal(size, dtype=np.float32) * np.float32(STRENGTH)
            values /= np.float32(size[1] ** 0.5)
            writer.add_tensor(f"blk.{block}.{part}.weight.{end}", values)
    return finish(writer, path)
