"""Trains the byte-level BPE tokeniser on the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from chat import END_OF_TEXT, END_OF_TURN, render
from corpus import samples
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048
CONTROL = [END_OF_TEXT, "<|im_start|>", END_OF_TURN]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
PRE = "qwen2"
"""llama.cpp's name for the pre-tokeniser below (``tokenizer.ggml.pre``). It makes each digit a
separate token, which makes sums learnable."""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _texts(seed: int, count: int) -> Iterator[str]:
    for sample in islice(samples(seed), count):
        text = render(sample)
        for special in (*CONTROL, *TAGS):
            text = text.replace(special, "\n")
        yield text


def train(path: Path, seed: int, count: int = 40_000) -> Tokenizer:
    """Train on ``count`` samples and write the tokeniser to ``path``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(CONTROL) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, count), trainer)
    tokenizer.add_special_tokens([*CONTROL, *TAGS])
    tokenizer.save(str(path))
    return tokenizer
