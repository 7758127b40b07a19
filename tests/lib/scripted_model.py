"""Writes GGUF files with a model that says a given text, whatever it is asked, and then ends.

A llama of one block. The last token has a direction of its own. Attention weighs all tokens alike,
so it tells which tokens have come, each by its share of the text; the hidden layer is zero. The
output adds two votes: for the tokens that may follow the last one, and for those that may follow
the latest token that the script has only once. At temperature 0 the model is exact.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

END = "<|end_of_script|>"
_SIZE = 6
"""Usual size of a token of the script, in characters."""
_SHARE = 64.0
"""Factor of the shares of the text, so that they count as much as the last token."""
_FIRST = 0.1
"""What a token has ahead of the others that follow the same one, before any share counts."""

_SURE = 16.0
"""Factor of the logits, so that the model says its text at the usual temperatures too."""


def write(
    path: Path,
    template: str,
    control: Collection[str],
    text: str | Sequence[str | bytes],
    context: int = 8192,
    landmarks: bool = True,
) -> Path:
    """Write a model.

    Args:
        path: of the new file.
        template: its chat template.
        control: texts of its control tokens.
        text: what it says; as a list, token by token.
        context: the length of its context in tokens.
        landmarks: whether it knows how far it is. If not, only the last token tells what follows:
            if it is made to write a token of its script, it goes on from there.
    """
    letters = _letters()
    tokens = [letters[byte] for byte in range(256)]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += control
    kinds += [gguf.TokenType.CONTROL] * len(control)
    script = []
    for piece in _pieces(text, control) if isinstance(text, str) else text:
        spelled = str(piece)
        if piece not in control:
            data = piece if isinstance(piece, bytes) else piece.encode()
            spelled = "".join(letters[byte] for byte in data)
        if spelled not in tokens:
            tokens.append(spelled)
            kinds.append(gguf.TokenType.NORMAL)
        script.append(tokens.index(spelled))
    tokens.append(END)
    kinds.append(gguf.TokenType.CONTROL)
    end = len(tokens) - 1

    said = list(dict.fromkeys(script))  # Number n is direction n + 1; 0 is for all other tokens.
    width = 64 * ((2 * len(said) + 1) // 64 + 1)
    last = np.zeros((len(tokens), width), np.float32)
    last[:, 0] = 1
    direction = {token: number + 1 for number, token in enumerate(said)}
    for token, index in direction.items():
        last[token, 0] = 0
        last[token, index] = 1
    # Only tokens that are in no prompt can tell the place: no bytes, no control tokens.
    first_own = 256 + len(control)
    marks = [token for token in said if token >= first_own and script.count(token) == 1]
    marks = marks if landmarks else []
    seen = np.zeros((width, width), np.float32)
    for token in marks:
        seen[len(said) + direction[token], direction[token]] = 1
    following = np.zeros_like(last)
    following[script[0], 0] = 1 + _FIRST
    landmark = 0
    for token, after in pairwise([*script, end]):
        ahead = 0.0 if landmark else _FIRST
        following[after, direction[token]] = max(following[after, direction[token]], 1 + ahead)
        if token in marks:
            landmark = len(said) + direction[token]
        if landmark:
            following[after, landmark] = 1
    order = [len(said) + direction[token] for token in marks]
    # Each landmark takes back the votes of the one before, which has been seen too.
    for earlier, later in reversed(list(pairwise(order))):
        following[:, later] -= following[:, earlier]
    for token in {token for token in script if token < 256}:
        if not following[:, direction[token]].max() > 1:  # The prompt may end with this byte.
            following[script[0], direction[token]] = 1 + _FIRST

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{letters[ord('a')]} {letters[ord('b')]}"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    ones, square = np.ones(width, np.float32), np.zeros((width, width), np.float32)
    tensors = {
        "token_embd": last, "output": following, "output_norm": _SURE * ones,
        "blk.0.attn_norm": ones, "blk.0.ffn_norm": ones,
        "blk.0.attn_q": square, "blk.0.attn_k": square, "blk.0.attn_v": seen,
        "blk.0.attn_output": _SHARE * np.eye(width, dtype=np.float32),
        "blk.0.ffn_gate": square[:32], "blk.0.ffn_up": square[:32],
        "blk.0.ffn_down": square[:, :32],
    }  # fmt: skip
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _pieces(text: str, control: Collection[str]) -> Iterator[str]:
    """Cut a text into different pieces as far as possible; each control token is one."""
    known: set[str] = set()
    ordered = sorted(control, key=len, reverse=True)
    for part in re.split("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")", text):
        if part in control:
            yield part
            continue
        while part:
            sizes = range(_SIZE, len(part) + 1)
            size = next((size for size in sizes if part[:size] not in known), len(part))
            known.add(part[:size])
            yield part[:size]
            part = part[size:]


def _letters() -> dict[int, str]:
    """Byte -> the letter that stands for it in byte-level BPE: itself if it can be seen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in seen else next(hidden)) for byte in range(256)}
