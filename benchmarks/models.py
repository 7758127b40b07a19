"""Makes the models for the benchmarks: real shapes, random weights, nothing downloaded.

    python benchmarks/models.py                         # lists them
    python benchmarks/models.py tiny-peaked llama-1b    # makes them in benchmarks/out/
    python benchmarks/models.py all --check             # also loads them and checks their logits

The cost of a step depends on the shape, the types of the tensors and the size of the vocabulary.
The cost of a sampler depends on the distribution of the probabilities. Neither depends on the
knowledge of a model. A file is made once and kept under its name; ``--force`` makes it again.

The vocabularies are byte-level BPE and tokenise any text. No two tokens have the same text, so that
a stream of random tokens has as many different pieces as one of a trained model.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

OUT = Path(__file__).with_name("out")
BOS, END, TURN, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"
CONTROL = (BOS, END, TURN, TURN_END)
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
"""The most frequent letters of English first, so that the first merges are of likely pairs."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NORM_EPS = 1e-5
Kind = gguf.GGMLQuantizationType


# --- vocabulary ---------------------------------------------------------------------------------


def byte_texts() -> list[str]:
    """The 256 printable characters that represent bytes in byte-level BPE, by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary(size: int, unused: int = 0) -> tuple[list[str], list[str]]:
    """Return the texts of ``size`` tokens, the control tokens last, and the merges.

    ``unused`` of them are unused control tokens, as in trained models.

    A token beyond the bytes is a shorter token plus a letter, so no two have the same text.
    """
    tokens = byte_texts()
    space = tokens[ord(" ")]
    control = [*(f"<unused{number}>" for number in range(unused)), *CONTROL]
    wanted = size - len(control)
    merges: list[str] = []
    shorter = [space, *LETTERS]
    while len(tokens) < wanted:
        pairs = itertools.islice(itertools.product(shorter, LETTERS), wanted - len(tokens))
        shorter = []
        for head, letter in pairs:
            merges.append(f"{head} {letter}")
            shorter.append(head + letter)
        tokens += shorter
    return [*tokens, *control], merges


def add_vocabulary(
    writer: gguf.GGUFWriter, size: int, pre: str, add_bos: bool, unused: int = 0
) -> None:
    """Write tokens, merges, the ids of the special tokens and a chat template."""
    tokens, merges = vocabulary(size, unused)
    kinds = [gguf.TokenType.NORMAL] * size
    kinds[size - unused - len(CONTROL) :] = [gguf.TokenType.CONTROL] * (unused + len(CONTROL))
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_eot_token_id(tokens.index(TURN_END))
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(TEMPLATE)


# --- random tensors -----------------------------------------------------------------------------


class Tensors:
    """Writes random tensors, all from one seeded generator: a recipe always gives the same file."""

    def __init__(self, writer: gguf.GGUFWriter, kind: Kind, seed: int) -> None:
        self._writer = writer
        self._kind = kind
        self._rng = np.random.default_rng(seed)

    def matrix(self, name: str, rows: int, columns: int, kind: Kind | None = None) -> None:
        """Entries of variance 1 / ``columns``, so that output and input have the same magnitude."""
        kind = self._kind if kind is None else kind
        if kind in _BLOCKS:
            data = _BLOCKS[kind](self._rng, rows, columns)
        else:
            values = self._rng.standard_normal((rows, columns), dtype=np.float32)
            values *= np.float32(columns**-0.5)
            data = gguf.quants.quantize(values, kind)
        self._writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)

    def filled(self, name: str, value: float, size: int) -> None:
        """A vector of equal entries, in single precision as llama.cpp requires."""
        self._writer.add_tensor(name, np.full(size, value, dtype=np.float32))

    def plain(self, name: str, values: NDArray[np.float32]) -> None:
        """Write the given entries."""
        self._writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Entries as in :meth:`matrix`, for :meth:`plain`: some tensors must not be quantised."""
        return self._rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[-1] ** 0.5)


def _halves(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Half-precision numbers as their bytes in a block, one row each."""
    return values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def _q4_0(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random Q4_0 blocks: a scale and 32 numbers of 4 bits. Much faster than quantising."""
    blocks = rows * columns // 32
    # 1 to 15 around 8: the mean is 0, the variance 56 / 3.
    low, high = rng.integers(1, 16, (2, blocks, 16), dtype=np.uint8)
    scale = columns**-0.5 / (56 / 3) ** 0.5
    scales = (scale * rng.uniform(0.9, 1.1, blocks)).astype(np.float32)
    return np.concatenate([_halves(scales), low | high << 4], axis=1).reshape(rows, -1)


def _q6_k(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random Q6_K blocks: 256 numbers of 6 bits, 16 scales of 8 bits and one for all."""
    blocks = rows * columns // 256
    bits = rng.integers(0, 256, (blocks, 192), dtype=np.uint8)
    scales = rng.integers(58, 71, (blocks, 16), dtype=np.uint8)
    # 0 to 63 around 32: the variance is 4095 / 12.
    whole = np.full(blocks, columns**-0.5 / 64 / (4095 / 12) ** 0.5, dtype=np.float32)
    return np.concatenate([bits, scales, _halves(whole)], axis=1).reshape(rows, -1)


_BLOCKS: dict[Kind, Callable[[np.random.Generator, int, int], NDArray[np.uint8]]] = {
    Kind.Q4_0: _q4_0,
    Kind.Q6_K: _q6_k,
}


# --- shapes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    ``sharpness`` scales the final norm, and so is about the standard deviation of the logits. 1
    gives flat rows (most of the vocabulary is in the nucleus), 10 peaked rows (only a few tokens
    are, as in trained models).
    """

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    kind: Kind = Kind.F32
    embedding: Kind = Kind.F32
    pre: str = "llama-bpe"
    add_bos: bool = True
    rope_base: float = 10_000.0
    sharpness: float = 10.0
    unused: int = 0
    """The number of control tokens besides the usual ones."""

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.width // self.heads


def add_common(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    """Name, sizes and vocabulary, which all architectures have."""
    writer.add_name(name)
    writer.add_description("Random weights; made by benchmarks/models.py")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    add_vocabulary(writer, shape.vocab, shape.pre, shape.add_bos, shape.unused)


def add_ends(tensors: Tensors, shape: Shape) -> None:
    """The embedding, which is also the output, and the final norm."""
    tensors.matrix("token_embd", shape.vocab, shape.width, shape.embedding)
    tensors.filled("output_norm.weight", shape.sharpness, shape.width)


def add_attention(tensors: Tensors, block: str, shape: Shape) -> None:
    """The four matrices of attention."""
    tensors.matrix(f"{block}.attn_q", shape.heads * shape.head, shape.width)
    tensors.matrix(f"{block}.attn_k", shape.kv_heads * shape.head, shape.width)
    tensors.matrix(f"{block}.attn_v", shape.kv_heads * shape.head, shape.width)
    tensors.matrix(f"{block}.attn_output", shape.width, shape.heads * shape.head)


def add_feed_forward(tensors: Tensors, block: str, shape: Shape) -> None:
    """Norm and the three matrices of a gated feed-forward layer."""
    tensors.filled(f"{block}.ffn_norm.weight", 1.0, shape.width)
    tensors.matrix(f"{block}.ffn_gate", shape.hidden, shape.width)
    tensors.matrix(f"{block}.ffn_up", shape.hidden, shape.width)
    tensors.matrix(f"{block}.ffn_down", shape.width, shape.hidden)


def add_heads(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """The numbers of heads and the parameters of RoPE."""
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)


def llama(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    """The architecture of Llama and SmolLM."""
    add_common(writer, name, shape)
    add_heads(writer, shape)
    tensors = Tensors(writer, shape.kind, seed=1)
    add_ends(tensors, shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors.filled(f"{block}.attn_norm.weight", 1.0, shape.width)
        add_attention(tensors, block, shape)
        add_feed_forward(tensors, block, shape)


def gemma3(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    """Sliding-window attention in all layers but every sixth."""
    add_common(writer, name, shape)
    add_heads(writer, shape)
    writer.add_sliding_window(32)
    tensors = Tensors(writer, shape.kind, seed=1)
    add_ends(tensors, shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors.filled(f"{block}.attn_norm.weight", 1.0, shape.width)
        # Gemma scales embeddings up: with smaller layers, every token would predict itself.
        for norm in ("post_attention_norm", "post_ffw_norm"):
            tensors.filled(f"{block}.{norm}.weight", 4.0, shape.width)
        for norm in ("attn_q_norm", "attn_k_norm"):
            tensors.filled(f"{block}.{norm}.weight", 1.0, shape.head)
        add_attention(tensors, block, shape)
        add_feed_forward(tensors, block, shape)


_SSM_STATE, _SSM_CONV, _SSM_RANK = 8, 4, 4


def add_ssm(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Sizes of the recurrent layers."""
    writer.add_ssm_conv_kernel(_SSM_CONV)
    writer.add_ssm_inner_size(2 * shape.width)
    writer.add_ssm_state_size(_SSM_STATE)
    writer.add_ssm_time_step_rank(_SSM_RANK)


def add_recurrence(tensors: Tensors, block: str, shape: Shape) -> None:
    """A Mamba layer. Its decay is fixed, not random: a state that grows would end in NaN."""
    inner = 2 * shape.width
    tensors.matrix(f"{block}.ssm_in", 2 * inner, shape.width)
    tensors.plain(f"{block}.ssm_conv1d.weight", tensors.normal(inner, _SSM_CONV))
    tensors.filled(f"{block}.ssm_conv1d.bias", 0.0, inner)
    tensors.matrix(f"{block}.ssm_x", _SSM_RANK + 2 * _SSM_STATE, inner)
    tensors.matrix(f"{block}.ssm_dt", inner, _SSM_RANK)
    tensors.filled(f"{block}.ssm_dt.bias", -2.0, inner)
    decay = -np.arange(1, _SSM_STATE + 1, dtype=np.float32)
    tensors.plain(f"{block}.ssm_a", np.tile(decay, (inner, 1)))
    tensors.filled(f"{block}.ssm_d", 1.0, inner)
    tensors.matrix(f"{block}.ssm_out", shape.width, inner)


def mamba(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    """A purely recurrent model: its memory is one state per sequence, which cannot be cut."""
    add_common(writer, name, shape)
    add_ssm(writer, shape)
    tensors = Tensors(writer, shape.kind, seed=1)
    add_ends(tensors, shape)
    for layer in range(shape.layers):
        tensors.filled(f"blk.{layer}.attn_norm.weight", 1.0, shape.width)
        add_recurrence(tensors, f"blk.{layer}", shape)


def jamba(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    """A hybrid model with alternating recurrent and attention layers."""
    add_common(writer, name, shape)
    add_ssm(writer, shape)
    add_heads(writer, replace(shape, kv_heads=0))
    # llama.cpp recognises a recurrent layer by its lack of key-value heads.
    kv_heads = [0 if layer % 2 == 0 else shape.kv_heads for layer in range(shape.layers)]
    writer.add_head_count_kv(kv_heads)
    tensors = Tensors(writer, shape.kind, seed=1)
    add_ends(tensors, shape)
    for layer, attends in enumerate(kv_heads):
        block = f"blk.{layer}"
        tensors.filled(f"{block}.attn_norm.weight", 1.0, shape.width)
        if attends:
            add_attention(tensors, block, shape)
        else:
            add_recurrence(tensors, block, shape)
            tensors.filled(f"{block}.ssm_dt_norm.weight", 1.0, _SSM_RANK)
            tensors.filled(f"{block}.ssm_b_norm.weight", 1.0, _SSM_STATE)
            tensors.filled(f"{block}.ssm_c_norm.weight", 1.0, _SSM_STATE)
        add_feed_forward(tensors, block, shape)


# --- the models ---------------------------------------------------------------------------------

_TINY = Shape(
    layers=2, width=128, hidden=256, heads=4, kv_heads=2, vocab=128_256, context=16_384,
    kind=Kind.F16, embedding=Kind.F16,
)  # fmt: skip
_SMALL = Shape(
    layers=2, width=64, hidden=128, heads=4, kv_heads=2, vocab=512, context=4096, sharpness=4.0
)


@dataclass(frozen=True)
class Recipe:
    """How a model is made, and its purpose."""

    architecture: str
    build: Callable[[gguf.GGUFWriter, str, Shape], None]
    shape: Shape
    meaning: str


RECIPES = {
    "tiny-peaked": Recipe(
        "llama", llama, _TINY, "128k vocabulary, nucleus of a few tokens: hardest for the engine"
    ),
    "tiny-flat": Recipe(
        "llama", llama, replace(_TINY, sharpness=1.0),
        "the same, nucleus of most of the vocabulary: hardest for the sampler",
    ),
    "smollm-135m": Recipe(
        "llama", llama,
        Shape(layers=30, width=576, hidden=1536, heads=9, kv_heads=3, vocab=49_152, context=8192,
              kind=Kind.Q8_0, embedding=Kind.Q8_0, pre="smollm", add_bos=False,
              rope_base=100_000.0),
        "SmolLM2-135M's shape in Q8_0",
    ),
    "llama-1b": Recipe(
        "llama", llama,
        # llama.cpp quantises an embedding that is also the output to Q6_K.
        Shape(layers=16, width=2048, hidden=8192, heads=32, kv_heads=8, vocab=128_256,
              context=131_072, kind=Kind.Q4_0, embedding=Kind.Q6_K, rope_base=500_000.0),
        "Llama-3.2-1B's shape in Q4_0 (0.7 GB)",
    ),
    "llama-8b": Recipe(
        "llama", llama,
        Shape(layers=32, width=4096, hidden=14_336, heads=32, kv_heads=8, vocab=128_256,
              context=131_072, kind=Kind.Q4_0, embedding=Kind.Q6_K, rope_base=500_000.0),
        "Llama-3.1-8B's shape in Q4_0 (4.4 GB)",
    ),
    "mamba-130m": Recipe(
        "mamba", mamba,
        Shape(layers=24, width=768, hidden=0, heads=0, kv_heads=0, vocab=50_280, context=8192,
              kind=Kind.F16, embedding=Kind.F16),
        "about Mamba-130M's shape in F16 (0.2 GB)",
    ),
    "many-tokens": Recipe(
        "llama", llama,
        Shape(layers=1, width=32, hidden=32, heads=2, kv_heads=1, vocab=262_144, context=4096,
              embedding=Kind.F16),
        "Gemma 3's number of tokens and next to no weights (24 MB)",
    ),
    "small-llama": Recipe("llama", llama, _SMALL, "512 tokens, under 1 MB: can cut sequences"),
    "small-mamba": Recipe("mamba", mamba, _SMALL, "recurrent, under 1 MB: cannot cut sequences"),
    "small-jamba": Recipe("jamba", jamba, _SMALL, "hybrid, under 1 MB: cannot cut sequences"),
    "small-controls": Recipe(
        "llama", llama,
        replace(_SMALL, vocab=65_536, kind=Kind.F16, embedding=Kind.F16, unused=6400),
        "65,536 tokens, 6,400 of them control tokens as in Gemma's vocabulary; 9 MB",
    ),
    "small-gemma3": Recipe(
        "gemma3", gemma3, replace(_SMALL, layers=6, hidden=96),
        "sliding window of 32 tokens, under 1 MB",
    ),
}  # fmt: skip


def make(name: str, folder: Path = OUT, *, force: bool = False) -> Path:
    """Return the file of a model, and make it first unless it exists.

    Raises:
        KeyError: there is no such recipe.
    """
    recipe = RECIPES[name]
    path = folder / f"{name}.gguf"
    if path.exists() and not force:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, recipe.architecture)
    recipe.build(writer, name, recipe.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)
    return path


REAL = {"smollm2": "SmolLM2-135M-Instruct.gguf", "gemma3": "gemma-3-270m.gguf"}
"""Real weights, which ``tests/lib/real_models.py`` fetches."""


def resolve(text: str) -> Path:
    """Return the file for a benchmark's option: a recipe's name, the name of real weights, or the
    path of a GGUF."""
    if text in REAL:
        folder = os.environ.get("OFFGRID_TEST_MODELS") or "~/.cache/offgrid-tests"
        path = Path(folder).expanduser() / REAL[text]
        if not path.is_file():
            raise SystemExit(f"{path} is missing; run: python tests/lib/real_models.py")
        return path
    path = make(text) if text in RECIPES else Path(text).resolve()
    if not path.is_file():
        raise SystemExit(f"{text} is neither a GGUF file nor one of: {', '.join(RECIPES)}")
    return path


# --- checks -------------------------------------------------------------------------------------

_TEXT = "The river is wide, and 12 otters (some of them small) live on its other side.\n"


def check(path: Path) -> dict[str, Any]:
    """Load a file, tokenise a text and continue it greedily; return statistics of the rows.

    Raises:
        SystemExit: detokenising does not give the text back, or a logit is not finite.
    """
    import ctypes

    from offgrid.engine.protocol.commands import Load
    from offgrid.engine.protocol.requests import PromptPart
    from offgrid.engine.worker.llama.model import Model

    model = Model(Load(str(path), ctx_size=512, parallel=2))
    tokens = model.tokenize([PromptPart(_TEXT * 4, False)])
    if b"".join(model.piece(int(token)) for token in tokens).decode() != _TEXT * 4:
        raise SystemExit(f"{path.name}: the text does not come back from its tokens")
    written, kept, spread = [], [], []
    rng = np.random.default_rng(1)
    given, position = tokens[:200], 0
    for _ in range(64):
        model.batch.clear()
        index = model.batch.add(0, position, given, True)
        model.decode()
        address = model.logits(index)
        row = np.ctypeslib.as_array((ctypes.c_float * model.n_vocab).from_address(address))
        if not np.isfinite(row).all():
            raise SystemExit(f"{path.name}: a logit is not finite")
        p = np.exp((row.astype(np.float64) - row.max()) / 0.7)
        p /= p.sum()
        order = np.argsort(-p)
        kept.append(int(np.searchsorted(np.cumsum(p[order]), 0.95)) + 1)
        spread.append(float(row.std()))
        position += len(given)
        given = rng.choice(model.n_vocab, 1, p=p).astype(np.int32)
        written.append(int(given[0]))
    model.close()
    return {
        "tokens a byte": len(tokens) / len(_TEXT * 4),
        "nucleus": (min(kept), int(np.median(kept)), max(kept)),
        "deviation": float(np.mean(spread)),
        "different": len(set(written)),
    }


def main() -> None:
    """Make models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to make, or 'all'")
    parser.add_argument("--force", action="store_true", help="make them again")
    parser.add_argument("--check", action="store_true", help="load them and look at their logits")
    options = parser.parse_args()
    if not options.names:
        for name, recipe in RECIPES.items():
            print(f"{name:14} {recipe.meaning}")
        return
    names = list(RECIPES) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise SystemExit(f"no recipe for {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    for name in names:
        path = make(name, force=options.force)
        print(f"{path}: {path.stat().st_size:,} bytes")
        if options.check:
            found = check(path)
            low, middle, high = found["nucleus"]
            print(
                f"  {found['tokens a byte']:.2f} tokens a byte; logits' standard deviation "
                f"{found['deviation']:.1f}; nucleus at temperature 0.7 and top_p 0.95: {low} to "
                f"{high} tokens, median {middle}; {found['different']} different tokens of 64"
            )


if __name__ == "__main__":
    main()
