"""Types of keys and values: each one computes, and combinations that llama.cpp cannot have are
refused with the name of the setting, before llama.cpp ends the process."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import finish, make, models

from offgrid.config import KV_TYPES as SETTING
from offgrid.engine.kv_types import BLOCK, KV_TYPES, bytes_of, is_quantised
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.examine import examine
from offgrid.engine.worker.llama.kv_types import GGML_TYPES
from offgrid.engine.worker.llama.model import Model

PROMPT = tuple(range(300, 340))
QUANTISED = [name for name in KV_TYPES if is_quantised(name)]


def make_heads(folder: Path, size: int, **metadata: int) -> Path:
    """A llama with two heads of ``size`` elements, and more numbers in its metadata."""
    recipe = models.RECIPES["small-llama"]
    path = folder / f"heads-{size}{''.join(metadata)}.gguf"
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    shape = dataclasses.replace(recipe.shape, layers=1, width=2 * size, heads=2, kv_heads=1)
    recipe.build(writer, path.stem, shape)
    for name, number in metadata.items():
        writer.add_uint32(f"llama.attention.{name}", number)
    return finish(writer, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def fitting(folder: Path) -> Path:
    return make_heads(folder, 64)


@pytest.fixture(scope="module")
def misfit(folder: Path) -> Path:
    return make_heads(folder, 48)


def load(path: Path, **fields: Any) -> Load:
    return Load(str(path), ctx_size=256, parallel=2, batch_size=64, threads=1, **fields)


def refusal(path: Path, **fields: Any) -> str:
    """The message of the examination, which is also that of the load."""
    with pytest.raises(LoadError) as examined:
        examine(load(path, **fields))
    with pytest.raises(LoadError) as loaded:
        Model(load(path, **fields))
    assert str(examined.value) == str(loaded.value)
    return str(examined.value)


def test_the_types_are_those_of_the_settings_and_of_llama_cpp() -> None:
    assert KV_TYPES == SETTING == tuple(GGML_TYPES)
    for name, number in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        assert kind.name.lower() == name
        assert bytes_of(name, 4 * BLOCK) * elements == 4 * BLOCK * size
        assert is_quantised(name) == (elements == BLOCK)


def logits(model: Model) -> NDArray[np.float32]:
    """The row after the prompt, whose end is computed token by token."""
    tokens = np.array(PROMPT, dtype=np.int32)
    for start in range(0, len(PROMPT), 20):
        model.batch.clear()
        last = model.batch.add(0, start, tokens[start : start + 20], 1)
        model.decode()
    address = model.logits(last)
    row = np.ctypeslib.as_array((ctypes.c_float * model.n_vocab).from_address(address)).copy()
    model.forget(0)
    return row


@pytest.fixture(scope="module")
def exact(fitting: Path) -> NDArray[np.float32]:
    model = Model(load(fitting, kv_type_k="f32", kv_type_v="f32"))
    row = logits(model)
    model.close()
    return row


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("side", ["k", "v"])
def test_every_type_computes(
    fitting: Path, exact: NDArray[np.float32], kv_type: str, side: str
) -> None:
    """Logits hardly differ, the memory is as large as the type says, and quantised values have
    flash attention."""
    model = Model(load(fitting, **{f"kv_type_{side}": kv_type}))
    try:
        assert np.corrcoef(logits(model), exact)[0, 1] > 0.98
        assert model.kv_bytes == bytes_of("f16", 64 * 512) + bytes_of(kv_type, 64 * 512)
        assert model.info.flash_attention == (side == "v" and is_quantised(kv_type))
    finally:
        model.close()


def test_types_are_part_of_the_fingerprint(fitting: Path) -> None:
    prints = set()
    for fields in ({}, {"kv_type_k": "q8_0"}, {"kv_type_v": "bf16"}, {"flash_attention": "on"}):
        model = Model(load(fitting, **fields))
        prints.add(model.info.fingerprint)
        model.close()
    assert len(prints) == 4


@pytest.mark.parametrize("kv_type", QUANTISED)
@pytest.mark.parametrize("attention", ["auto", "on", "off"])
def test_heads_that_no_block_divides_have_no_quantised_keys(
    misfit: Path, kv_type: str, attention: str
) -> None:
    """Without flash attention, llama.cpp would not refuse it, but end the process."""
    message = refusal(misfit, kv_type_k=kv_type, flash_attention=attention)
    assert message == (
        f"kv_type_k {kv_type} needs heads whose size is a multiple of 32, and this model has 48; "
        "set OFFGRID_KV_TYPE_K (--kv-type-k) to f16, bf16 or f32."
    )


def test_values_are_named_as_values(misfit: Path) -> None:
    message = refusal(misfit, kv_type_v="q8_0")
    assert message.startswith("kv_type_v q8_0 needs heads whose size")
    assert message.endswith("set OFFGRID_KV_TYPE_V (--kv-type-v) to f16, bf16 or f32.")


def test_plain_types_fit_all_heads(misfit: Path) -> None:
    examine(load(misfit, kv_type_k="f32", kv_type_v="bf16"))


def test_heads_of_sliding_windows_count_too(folder: Path) -> None:
    path = make_heads(folder, 64, key_length_swa=40)
    assert "this model has 40" in refusal(path, kv_type_k="q4_0")
    examine(load(path, kv_type_v="q4_0"))


def test_quantised_values_need_flash_attention(fitting: Path) -> None:
    message = refusal(fitting, kv_type_v="q8_0", flash_attention="off")
    assert message == (
        "kv_type_v q8_0 needs flash attention, which is off; set OFFGRID_KV_TYPE_V (--kv-type-v) "
        "to f16, bf16 or f32, or OFFGRID_FLASH_ATTENTION (--flash-attention) to auto."
    )


def test_latent_attention_has_one_cache(folder: Path) -> None:
    path = make_heads(folder, 64, key_length_mla=64, value_length_mla=64)
    message = refusal(path, kv_type_k="q8_0")
    assert message == (
        "kv_type_v f16 differs from kv_type_k q8_0, and this model has one cache for both; set "
        "OFFGRID_KV_TYPE_V (--kv-type-v) to q8_0 too."
    )
    examine(load(path, kv_type_k="q8_0", kv_type_v="q8_0"))


@pytest.mark.parametrize("architecture", ["mamba", "jamba", "gemma3"])
def test_other_memories(folder: Path, architecture: str) -> None:
    """A model without attention has no heads; a hybrid one has both kinds of layers."""
    path = make(architecture, folder)
    fields = load(path, kv_type_k="bf16", kv_type_v="bf16")
    model = Model(fields)
    model.close()
    quantised = load(path, kv_type_k="q8_0", kv_type_v="q8_0")
    if architecture == "mamba":
        Model(quantised).close()
    else:
        assert "needs heads" in refusal(path, kv_type_k="q8_0", kv_type_v="q8_0")
