"""Writes the trained model as a GGUF. Matrices become Q8_0, norms stay float32."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from chat import END_OF_TEXT, END_OF_TURN, TEMPLATE
from model import Shape
from tokenizer import CONTROL, PRE
from train import OUT

NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip
"""This project's names for the parts of a block, and llama.cpp's."""
DESTINATION = Path(__file__).parent.parent / "offgrid" / "models" / "offgrid-starter.gguf"


def add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Write the sizes and the description of the model."""
    writer.add_name("OffGrid Starter")
    writer.add_description("Tiny demonstration model of OffGrid LLM; see offgrid/models/README.md")
    writer.add_license("MIT")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Write the vocabulary, the merges and the chat template."""
    content = json.loads((OUT / "tokenizer.json").read_text())
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = dict(content["model"]["vocab"])
    vocabulary.update({token["content"]: token["id"] for token in content["added_tokens"]})
    tokens = sorted(vocabulary, key=lambda text: vocabulary[text])
    kinds = [
        gguf.TokenType.CONTROL if text in CONTROL
        else gguf.TokenType.USER_DEFINED if text in special
        else gguf.TokenType.NORMAL
        for text in tokens
    ]  # fmt: skip
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocabulary[END_OF_TURN])
    writer.add_eot_token_id(vocabulary[END_OF_TURN])
    writer.add_pad_token_id(vocabulary[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def add_weights(writer: gguf.GGUFWriter, weights: dict[str, torch.Tensor]) -> None:
    """Write all tensors under llama.cpp's names."""
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[0] == "embed":
            renamed = "token_embd.weight"
        elif parts[0] == "norm":
            renamed = "output_norm.weight"
        else:
            renamed = f"blk.{parts[1]}.{NAMES[parts[2]]}.weight"
        values = tensor.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(renamed, values)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(renamed, packed, raw_dtype=kind)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=DESTINATION)
    path = parser.parse_args().to
    shape = Shape(**json.loads((OUT / "shape.json").read_text()))
    weights = torch.load(OUT / "model.pt", map_location="cpu", weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    add_metadata(writer, shape)
    add_tokenizer(writer)
    add_weights(writer, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
