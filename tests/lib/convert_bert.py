"""Converts a BERT that embeds sentences from Safetensors to a GGUF in single precision.

https://github.com/huggingface/safetensors describes the format: the length of a header, the header
in JSON, and the data of the tensors. The names of the tensors are those of ``gguf.constants``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

_CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TOP = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def convert(weights: Path, vocabulary: Path, target: Path, *, n_heads: int) -> None:
    """Write a GGUF with mean pooling.

    Args:
        weights: a Safetensors file with float32 tensors.
        vocabulary: word pieces, one on a line; ``##`` marks those that continue a word.
        target: the new file.
        n_heads: attention heads of a layer.
    """
    tensors = dict(read_tensors(weights))
    n_layers = 1 + max(int(name.split(".")[2]) for name in tensors if ".layer." in name)
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_context_length(len(tensors["embeddings.position_embeddings.weight"]))
    writer.add_embedding_length(tensors["embeddings.LayerNorm.weight"].shape[0])
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(tensors["encoder.layer.0.intermediate.dense.bias"].shape[0])
    writer.add_head_count(n_heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_vocabulary(writer, vocabulary.read_text(encoding="utf-8").splitlines())
    for name, values in tensors.items():
        new = _TOP.get(name) or _in_layer(name)
        if new is not None:
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the float32 tensors of a Safetensors file with their names."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(data[8 + length + begin : 8 + length + end], "<f4")
            yield name, values.reshape(entry["shape"])


def _in_layer(name: str) -> str | None:
    """Return the new name of a layer's tensor; None for the pooler, which mean pooling ignores."""
    parts = name.split(".")
    if parts[:2] != ["encoder", "layer"]:
        return None
    return f"blk.{parts[2]}.{_LAYER['.'.join(parts[3:-1])]}.{parts[-1]}"


def _add_vocabulary(writer: gguf.GGUFWriter, words: list[str]) -> None:
    """Write the word pieces; llama.cpp marks those that begin a word instead of the others."""
    tokens = [
        word if word in _CONTROL else word[2:] if word.startswith("##") else f"\u2581{word}"
        for word in words
    ]
    kinds = gguf.TokenType
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in _CONTROL else kinds.NORMAL for t in tokens])
    for text, add in (
        ("[UNK]", writer.add_unk_token_id), ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id), ("[PAD]", writer.add_pad_token_id),
        ("[MASK]", writer.add_mask_token_id),
    ):  # fmt: skip
        add(tokens.index(text))
