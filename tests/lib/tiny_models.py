"""Makes GGUF files with random weights for the tests: one of each kind of memory and of model.

The generators of architectures are in ``benchmarks/models.py``. The caller chooses the folder. A
file is smaller than 1 MB and takes a few hundredths of a second to write.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

from benchmark_modules import load_module

models = load_module("models")

WINDOW = 32
"""Size of the sliding window of most layers of gemma3, in tokens."""


def make(architecture: str, folder: Path) -> Path:
    """Return a new file with a generative model: llama, mamba, jamba or gemma3."""
    path: Path = models.make(f"small-{architecture}", folder)
    return path


def make_wordy(folder: Path, vocab: int = 65_536) -> Path:
    """Return a new file (4 MB) with a llama that has a large vocabulary.

    Its tokens are a letter, a space and a letter, and so on. About as many end with one letter as
    with any other.
    """
    shape = dataclasses.replace(
        models.RECIPES["small-llama"].shape,
        vocab=vocab, layers=1, width=32, hidden=32, heads=2, kv_heads=1, embedding=models.Kind.F16,
    )  # fmt: skip
    path = folder / "wordy.gguf"
    writer = models.gguf.GGUFWriter(path, "llama")
    models.llama(writer, path.stem, shape)
    return finish(writer, path)


def make_draft(folder: Path, name: str = "draft", *, vocab: int = 0, unused: int = 0) -> Path:
    """Return a new file with a smaller llama that has the vocabulary of the usual one.

    ``vocab`` is the size of another vocabulary. ``unused`` tokens are added at its end, as in files
    that are padded to a round number.
    """
    recipe = models.RECIPES["small-llama"]
    vocab = vocab or recipe.shape.vocab
    shape = dataclasses.replace(recipe.shape, layers=1, vocab=vocab + unused)
    path = folder / f"{name}.gguf"
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    recipe.build(writer, path.stem, shape)
    if unused:
        _replace_vocabulary(writer, models.vocabulary(vocab)[0], unused)
    return finish(writer, path)


def _replace_vocabulary(writer: Any, tokens: list[str], unused: int) -> None:
    kinds = models.gguf.TokenType
    keys = models.gguf.Keys.Tokenizer
    ids = {"bos": models.BOS, "eos": models.END, "eot": models.TURN_END}
    for data in writer.kv_data:
        for key in (keys.LIST, keys.TOKEN_TYPE, *(f"tokenizer.ggml.{n}_token_id" for n in ids)):
            data.pop(key, None)
    kinds_of = [kinds.CONTROL if text in models.CONTROL else kinds.NORMAL for text in tokens]
    writer.add_token_list([*tokens, *(f"[PAD{number}]" for number in range(unused))])
    writer.add_token_types([*kinds_of, *[kinds.UNUSED] * unused])
    for name, text in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", tokens.index(text))


def make_many_controls(folder: Path, n: int = 6400, template: str | None = None) -> Path:
    """Return a new file with a llama with ``n`` more control tokens, ``<unused0>`` and so on.

    Gemma's vocabulary has such tokens. ``template`` replaces the usual chat template.
    """
    recipe = models.RECIPES["small-llama"]
    tokens, _ = models.vocabulary(recipe.shape.vocab)
    kinds = models.gguf.TokenType
    control = {*models.CONTROL, *(f"<unused{i}>" for i in range(n))}
    tokens += [f"<unused{i}>" for i in range(n)]
    path = folder / f"controls-{n}.gguf"
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    recipe.build(writer, path.stem, dataclasses.replace(recipe.shape, vocab=len(tokens)))
    # Replace the vocabulary that the recipe wrote.
    keys = models.gguf.Keys.Tokenizer
    ids = {"bos": models.BOS, "eos": models.END, "eot": models.TURN_END}
    for data in writer.kv_data:
        for key in (
            keys.LIST,
            keys.TOKEN_TYPE,
            *(f"tokenizer.ggml.{name}_token_id" for name in ids),
        ):
            data.pop(key, None)
        if template is not None:
            data.pop(keys.CHAT_TEMPLATE, None)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in control else kinds.NORMAL for t in tokens])
    for name, text in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", tokens.index(text))
    if template is not None:
        writer.add_chat_template(template)
    return finish(writer, path)


# --- models that embed --------------------------------------------------------------------------


def make_last_pooling(folder: Path) -> Path:
    """Return a new file with a llama made for embedding.

    The state of the end token is the vector, as in the Qwen3 embedding models.
    """
    recipe = models.RECIPES["small-llama"]
    path = folder / "llama-last.gguf"
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    recipe.build(writer, path.stem, recipe.shape)
    writer.add_pooling_type(models.gguf.PoolingType.LAST)
    writer.add_add_eos_token(True)
    return finish(writer, path)


def finish(writer: Any, path: Path) -> Path:
    """Finish writing a file and return its path."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


WORDS = (
    "the otter fox river house old small wide swims runs lives sleeps looks and is in on of to by "
    "day night water tree green red fast slow"
).split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_CONTEXT = 128


def _wordpieces() -> list[str]:
    """Special tokens, whole words, letters, and letters that continue a word, as in llama.cpp.

    llama.cpp marks the beginning of a word; BERT's own files mark its continuation.
    """
    return [
        *_BERT_SPECIAL,
        *(f"\u2581{word}" for word in [*WORDS, *_LETTERS]),
        *_LETTERS,
    ]


def make_bert(
    folder: Path,
    pooling: str = "MEAN",
    *,
    width: int = 32,
    name: str | None = None,
    named: bool = True,
    labels: list[str] | None = None,
    replaced: str = "",
) -> Path:
    """Return a new file with a BERT of two layers: ``pooling`` NONE, MEAN, CLS or RANK.

    RANK has a classification head with one score, or with one for each label. llama.cpp's converter
    writes the labels of such models, and does not name their pooling (``named`` false).
    With ``replaced``, the vocabulary is one of T5, and that text takes the place of each ``~``.
    """
    gguf = models.gguf
    kind = gguf.PoolingType[pooling]
    path = folder / f"{name or f'bert-{pooling.lower()}'}.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    tokens = _wordpieces()
    writer.add_context_length(BERT_CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    if named and pooling != "NONE":
        writer.add_pooling_type(kind)
    if labels is not None:
        writer.add_classifier_output_labels(labels)
    writer.add_vocab_size(len(tokens))
    writer.add_token_type_count(2)
    if replaced:
        writer.add_tokenizer_model("t5")
        writer.add_token_scores([-1.0] * len(tokens))
        writer.add_precompiled_charsmap(_tilde_becomes(replaced))
    else:
        writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    control = gguf.TokenType.CONTROL
    writer.add_token_types(
        [control if token in _BERT_SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    )
    for text, add in (
        ("[UNK]", writer.add_unk_token_id), ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id), ("[PAD]", writer.add_pad_token_id),
    ):  # fmt: skip
        add(tokens.index(text))
    tensors = models.Tensors(writer, models.Kind.F32, seed=2)
    _bert_tensors(tensors, len(tokens), width, pooling, len(labels or "1"))
    return finish(writer, path)


def _tilde_becomes(text: str) -> bytes:
    """Return a map of characters as SentencePiece compiles it: a trie in a double array with the
    way of one character, and the texts."""
    tilde, value = ord("~"), 0x100
    nodes = [0] * 0x200
    nodes[tilde] = value << 10 | 1 << 8 | tilde  # from here to the value, the place of the text
    return struct.pack(f"<{1 + len(nodes)}I", 4 * len(nodes), *nodes) + text.encode() + b"\0"


def _bert_tensors(tensors: Any, vocab: int, width: int, pooling: str, n_scores: int) -> None:
    def linear(name: str, rows: int, columns: int) -> None:
        tensors.matrix(name, rows, columns)
        tensors.filled(f"{name}.bias", 0.1, rows)

    def norm(name: str) -> None:
        tensors.filled(f"{name}.weight", 1.0, width)
        tensors.filled(f"{name}.bias", 0.0, width)

    tensors.matrix("token_embd", vocab, width)
    tensors.matrix("position_embd", BERT_CONTEXT, width)
    tensors.matrix("token_types", 2, width)
    norm("token_embd_norm")
    for layer in range(2):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"{block}.{part}", width, width)
        norm(f"{block}.attn_output_norm")
        linear(f"{block}.ffn_up", 2 * width, width)
        linear(f"{block}.ffn_down", width, 2 * width)
        norm(f"{block}.layer_output_norm")
    if pooling == "RANK":
        linear("cls", width, width)
        linear("cls.output", n_scores, width)
