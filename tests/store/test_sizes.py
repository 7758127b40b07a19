"""The sizes that decide how much memory a model takes, read from headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from offgrid.store.description import describe
from offgrid.store.gguf_header import Header, Tensor
from offgrid.store.sizes import ModelSizes, sizes_of


def of_file(path: Path) -> ModelSizes:
    sizes = describe([path]).sizes
    assert sizes is not None
    return sizes


def header(
    architecture: str, tensors: dict[str, tuple[int, ...]], kind: str = "Q4_0", **values: Any
) -> Header:
    """A header with the metadata ``values`` (``__`` for a dot) and tensors of these shapes."""
    named = {f"{architecture}.{key.replace('__', '.')}": v for key, v in values.items()}
    lists = {key: value for key, value in named.items() if isinstance(value, tuple)}
    scalars = {key: value for key, value in named.items() if key not in lists}
    shapes = tuple(Tensor(f"{name}.weight", kind, shape, 100) for name, shape in tensors.items())
    metadata = {"general.architecture": architecture, **scalars}
    return Header(metadata, 0, len(shapes), {}, shapes, lists, {}, 100 * len(shapes))


def test_a_llama(tmp_path: Path) -> None:
    sizes = of_file(tiny_models.make("llama", tmp_path))
    # Two layers with two key-value heads of 16 elements.
    assert (sizes.keys, sizes.values, sizes.padded_values) == (64, 64, 64)
    assert (sizes.width, sizes.hidden, sizes.heads, sizes.queries) == (64, 128, 4, 64)
    assert (sizes.context, sizes.vocabulary, sizes.state) == (4096, 512, 0)
    assert sizes.merges > 200
    assert sizes.tied
    assert sizes.embedding == 512 * 64 * 4
    assert sum(sizes.matrices.values()) <= sizes.data < sizes.embedding + 2 * 64 * 600 * 4
    assert sizes.generates
    assert not sizes.whole


def test_models_with_states_and_windows(tmp_path: Path) -> None:
    mamba = of_file(tiny_models.make("mamba", tmp_path))
    assert (mamba.keys, mamba.values) == (0, 0)
    inner, state, kernel = 128, 8, 4
    assert mamba.state == 2 * ((kernel - 1) * inner + inner * state)
    jamba = of_file(tiny_models.make("jamba", tmp_path))
    assert (jamba.keys, jamba.values) == (32, 32)  # one layer attends
    assert jamba.state == mamba.state // 2
    gemma = of_file(tiny_models.make("gemma3", tmp_path))
    assert gemma.window == tiny_models.WINDOW
    assert (gemma.keys, gemma.window_keys) == (192, 160), "the sixth layer attends to all tokens"
    assert (gemma.window_values, gemma.window_padded) == (160, 160)


@pytest.mark.parametrize(
    ("architecture", "values", "layers"),
    [
        ("gemma3", {}, [0, 1, 2, 3, 4, 6, 7]),
        ("gemma3", {"attention__sliding_window_pattern": 2}, [0, 2, 4, 6]),
        ("smallthinker", {}, [1, 2, 3, 5, 6, 7]),
        ("x", {"attention__sliding_window_pattern": (True, False) * 4}, [0, 2, 4, 6]),
        ("x", {}, []),
    ],
)
def test_which_layers_have_a_window(
    architecture: str, values: dict[str, Any], layers: list[int]
) -> None:
    """The file says it for each layer, or how often one attends to all tokens, or not at all."""
    tensors = {f"blk.{layer}.attn_k": (64, 1 << layer) for layer in range(8)}
    values |= {"block_count": 8, "attention__sliding_window": 32}
    sizes = sizes_of([header(architecture, tensors, **values)])
    assert sizes.window_keys == sum(1 << layer for layer in layers)
    assert sizes.keys == 255


def test_a_model_that_computes_embeddings(tmp_path: Path) -> None:
    sizes = of_file(tiny_models.make_bert(tmp_path, "MEAN"))
    assert not sizes.generates
    assert sizes.whole
    assert not sizes.causal


def test_parts_of_a_split_model_are_added() -> None:
    first = header("llama", {"token_embd": (64, 512), "blk.0.attn_k": (64, 32)}, block_count=2)
    second = header("llama", {"blk.1.attn_k": (64, 32), "output": (64, 512)})
    sizes = sizes_of([first, second])
    assert (sizes.keys, sizes.data, sizes.tied) == (64, 400, False)
    assert sizes.matrices == {("Q4_0", 8): 300}


def test_rows_decide_which_matrices_can_be_repacked() -> None:
    tensors = {"blk.0.a": (64, 16), "blk.0.b": (64, 12), "blk.0.c": (64, 10), "blk.0.d": (64,)}
    sizes = sizes_of([header("llama", tensors)])
    assert sizes.matrices == {("Q4_0", 8): 100, ("Q4_0", 4): 100, ("Q4_0", 1): 100}


def test_a_layer_whose_values_are_its_keys() -> None:
    sizes = sizes_of([header("gemma4", {"blk.0.attn_k": (64, 32)}, block_count=1)])
    assert (sizes.keys, sizes.values) == (32, 32)


def test_layers_of_different_width_are_padded() -> None:
    wide = {"blk.0.attn_k": (64, 32), "blk.0.attn_v": (64, 64)}
    narrow = {"blk.1.attn_k": (64, 16), "blk.1.attn_v": (64, 16)}
    sizes = sizes_of([header("llama", {**wide, **narrow}, block_count=2)])
    assert (sizes.keys, sizes.values, sizes.padded_values) == (48, 80, 128)


@pytest.mark.parametrize("shared", ["attention__shared_kv_layers", "nextn_predict_layers"])
def test_layers_without_a_cache_of_their_own(shared: str) -> None:
    tensors = {f"blk.{layer}.attn_k": (64, 32) for layer in range(4)}
    sizes = sizes_of([header("gemma3n", tensors, block_count=4, **{shared: 1})])
    assert sizes.keys == 3 * 32


def test_fused_queries_keys_and_values() -> None:
    """Their widths are in the metadata: for all layers, or for each."""
    tensors = {f"blk.{layer}.attn_qkv": (64, 192) for layer in range(2)}
    values = {"block_count": 2, "embedding_length": 64, "attention__head_count": 4}
    sizes = sizes_of([header("phi3", tensors, **values, attention__head_count_kv=2)])
    assert (sizes.keys, sizes.values) == (64, 64)
    sizes = sizes_of([header("x", tensors, **values, attention__head_count_kv=(2, 1))])
    assert (sizes.keys, sizes.values) == (48, 48)


def test_multi_head_latent_attention() -> None:
    """A short vector takes the place of keys and values."""
    tensors = {"blk.0.attn_kv_a_mqa": (64, 40)}
    values = {
        "block_count": 1, "attention__kv_lora_rank": 512, "rope__dimension_count": 64,
        "attention__key_length_mla": 192,
    }  # fmt: skip
    sizes = sizes_of([header("deepseek2", tensors, **values)])
    assert (sizes.keys, sizes.values) == (576, 0)


@pytest.mark.parametrize(
    ("tensor", "values", "state"),
    [
        ("time_mix_key", {"wkv__head_size": 64, "token_shift_count": 2}, 2 * 128 + 128 * 64),
        ("shortconv.conv", {"shortconv__l_cache": 3}, 2 * 128),
        ("ssm_conv1d", {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 16,
                        "ssm__group_count": 2}, 3 * (256 + 64) + 16 * 256),
        ("ssm_conv1d_q", {"kda__head_dim": 32, "ssm__conv_kernel": 4}, 3 * 3 * 128 + 4 * 32 * 32),
    ],
)  # fmt: skip
def test_states_of_recurrent_layers(tensor: str, values: dict[str, int], state: int) -> None:
    values = {"embedding_length": 128, "attention__head_count": 4, **values}
    tensors = {f"blk.0.{tensor}": (128, 4), "blk.0.attn_qkv": (128, 4)}
    sizes = sizes_of([header("x", tensors, block_count=1, **values)])
    assert (sizes.state, sizes.keys) == (state, 0)


def test_absurd_values_do_no_harm() -> None:
    huge = (1 << 64) - 1
    tensors = {"blk.99999999.attn_k": (1, huge), "blk.0.attn_qkv": (1, 1), "blk.1.ssm_a": (1, 1)}
    values = {
        "block_count": huge, "embedding_length": huge, "attention__head_count": huge,
        "attention__head_count_kv": (-1, -2), "ssm__conv_kernel": huge, "context_length": huge,
    }  # fmt: skip
    sizes = sizes_of([header("llama", tensors, **values)])
    assert sizes.keys >= huge
    assert sizes.state >= 0
