"""The estimate of a model's memory. ``benchmarks/memory.py`` compares it with real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_8b import AVX2, LLAMA_8B

from offgrid.engine.client.estimate import estimate
from offgrid.engine.client.processor import repacked_types
from offgrid.engine.memory import GIB, MIB
from offgrid.engine.protocol.commands import Load
from offgrid.store.sizes import ModelSizes


@pytest.mark.parametrize(
    ("slots", "mapped", "measured"), [(4, True, 9.72), (4, False, 6.18), (1, True, 8.22),
                                      (1, False, 4.68)],
)  # fmt: skip
def test_an_8b_model_in_q4(slots: int, mapped: bool, measured: float) -> None:
    """Compared with the resident memory, in GiB, of a worker that had just loaded this shape. Then
    it had neither computed a full context nor prepared for grammars: 0.55 GiB."""
    load = Load("x", parallel=slots, use_mmap=mapped)
    assert estimate(LLAMA_8B, load, AVX2).total / GIB == pytest.approx(measured + 0.55, rel=0.04)


def test_weights_that_are_not_repacked_are_there_once() -> None:
    once = estimate(LLAMA_8B, Load("x"), {})
    assert (once.copies, once.dropped, once.weights) == (0, 0, LLAMA_8B.data)
    assert estimate(LLAMA_8B, Load("x", use_mmap=False), {}).weights == LLAMA_8B.data


def test_a_locked_file_cannot_be_dropped() -> None:
    assert estimate(LLAMA_8B, Load("x"), AVX2).dropped == 3744 * MIB
    assert estimate(LLAMA_8B, Load("x", use_mlock=True), AVX2).dropped == 0


def test_a_repacked_embedding_that_is_also_the_output_stays_in_its_plain_layout() -> None:
    """Single rows of it are read."""
    sizes = replace(
        LLAMA_8B, matrices={("Q4_0", 8): 4000 * MIB}, embedding=256 * MIB, embedding_type="Q4_0"
    )
    found = estimate(sizes, Load("x", use_mmap=False), AVX2)
    assert (found.copies, found.weights) == (4000 * MIB, sizes.data - (4000 - 256) * MIB)


def test_the_context_is_that_of_the_file_at_most() -> None:
    sizes = replace(LLAMA_8B, context=1024)
    kv = 2 * 2 * 32 * 1024
    assert estimate(sizes, Load("x", parallel=1), AVX2).cache == 1024 * kv
    assert estimate(sizes, Load("x", parallel=1, ctx_size=0), AVX2).cache == 1024 * kv
    assert estimate(sizes, Load("x", parallel=1, ctx_size=300), AVX2).cache == 512 * kv


@pytest.mark.parametrize(
    ("keys", "values", "bytes_of_32"),
    [("f16", "f16", 128), ("f32", "bf16", 192), ("q8_0", "q8_0", 68), ("q4_0", "f16", 82)],
)
def test_the_cache_has_the_types_of_the_settings(keys: str, values: str, bytes_of_32: int) -> None:
    load = Load("x", parallel=1, kv_type_k=keys, kv_type_v=values)
    assert estimate(LLAMA_8B, load, AVX2).cache == 4096 * 32 * 1024 // 32 * bytes_of_32


def test_embeddings_have_half_precision() -> None:
    sizes = replace(LLAMA_8B, generates=False)
    load = Load("x", kv_type_k="q4_0", kv_type_v="q4_0")
    assert estimate(sizes, load, AVX2) == estimate(sizes, Load("x"), AVX2)


@pytest.mark.parametrize(
    ("fields", "scores"),
    [({}, True), ({"flash_attention": "off"}, True), ({"flash_attention": "on"}, False),
     ({"kv_type_v": "q8_0"}, False), ({"gpu_layers": 1}, False), ({"ctx_size": 65_536}, False),
     ({"ctx_size": 65_536, "flash_attention": "off"}, True)],
)  # fmt: skip
def test_scores_take_memory_without_flash_attention(fields: dict[str, Any], scores: bool) -> None:
    """Also as long as it is not known what the measurement will choose."""
    load = Load("x", **fields)
    found = estimate(LLAMA_8B, load, AVX2).compute
    size = 6 * load.ctx_size * 512 * LLAMA_8B.heads
    assert (found > size) == scores


def test_the_choice_of_a_worker_replaces_the_larger_of_both_ways() -> None:
    """It is what the setting would say."""
    auto = estimate(LLAMA_8B, Load("x"), AVX2)
    for flash, setting in ((True, "on"), (False, "off")):
        chosen = estimate(LLAMA_8B, Load("x"), AVX2, flash=flash)
        assert chosen == estimate(LLAMA_8B, Load("x", flash_attention=setting), AVX2)
        assert chosen.total <= auto.total
    # Quantised values cannot do without.
    load = Load("x", kv_type_v="q8_0", flash_attention="off")
    assert estimate(LLAMA_8B, load, AVX2, flash=True) == estimate(LLAMA_8B, load, AVX2)


def test_the_choice_for_the_main_model_is_not_that_for_its_draft_model() -> None:
    load = Load("x", draft_model="y")
    auto = estimate(LLAMA_8B, load, AVX2, draft=LLAMA_8B)
    assert estimate(LLAMA_8B, load, AVX2, draft=LLAMA_8B, flash=True).draft == auto.draft


def test_inputs_have_the_attention_of_the_settings() -> None:
    """A worker chooses for sequences only."""
    sizes = replace(LLAMA_8B, generates=False)
    plain = estimate(sizes, Load("x"), AVX2)
    assert estimate(sizes, Load("x"), AVX2, flash=True) == plain


def test_states_do_not_depend_on_the_context() -> None:
    sizes = replace(LLAMA_8B, keys=0, values=0, padded_values=0, state=1000)
    for context in (512, 4096):
        assert estimate(sizes, Load("x", parallel=3, ctx_size=context), AVX2).cache == 12_000


def test_windows_take_little_more_than_the_window() -> None:
    """Shape of Gemma 3 270M; measured: 27 MiB for a slot of 4,096 tokens, 72 MiB with swa_full."""
    sizes = replace(
        LLAMA_8B, context=32768, keys=18 * 256, values=18 * 256, padded_values=18 * 256,
        window=512, window_keys=15 * 256, window_values=15 * 256, window_padded=15 * 256,
    )  # fmt: skip
    assert estimate(sizes, Load("x", parallel=8), AVX2).cache == 8 * 27 * MIB
    assert estimate(sizes, Load("x", parallel=8, swa_full=True), AVX2).cache == 8 * 72 * MIB
    short = Load("x", parallel=8, ctx_size=1024)
    assert estimate(sizes, short, AVX2) == estimate(
        sizes, Load("x", parallel=8, ctx_size=1024, swa_full=True), AVX2
    ), "the window and one call need all of it"


def test_checkpoints_up_to_their_budget() -> None:
    sizes = replace(LLAMA_8B, context=8192, state=1 << 18)  # 1 MiB
    assert estimate(LLAMA_8B, Load("x"), AVX2).checkpoints == 0
    assert estimate(sizes, Load("x", parallel=2), AVX2).checkpoints == 2 * 9 * MIB
    assert estimate(sizes, Load("x", parallel=2, checkpoints_mb=11), AVX2).checkpoints == 11 * MIB
    windowed = replace(LLAMA_8B, context=8192, window=1024, window_keys=512, window_values=512)
    per_window = 2 * 1024 * 1024
    assert estimate(windowed, Load("x", parallel=2), AVX2).checkpoints == 2 * 5 * per_window
    assert estimate(replace(sizes, generates=False), Load("x"), AVX2).checkpoints == 0


def test_flash_attention_keeps_no_scores() -> None:
    """It is used if the scores would be large."""
    short = estimate(LLAMA_8B, Load("x", ctx_size=8192), AVX2)
    long = estimate(LLAMA_8B, Load("x", ctx_size=16_384), AVX2)
    assert short.compute > 600 * MIB
    assert long.compute < short.compute / 2


def test_further_files_are_counted() -> None:
    plain = estimate(LLAMA_8B, Load("x"), AVX2)
    more = estimate(LLAMA_8B, Load("x"), AVX2, projector=800 * MIB, adapters=100 * MIB)
    assert more.total - plain.total == pytest.approx(1.15 * 800 * MIB + 100 * MIB, abs=2)


def test_models_that_compute_embeddings_have_no_slots() -> None:
    sizes = replace(LLAMA_8B, generates=False)
    assert estimate(sizes, Load("x", parallel=8), AVX2) == estimate(
        sizes, Load("x", parallel=1), AVX2
    )
    encoder = replace(sizes, whole=True, causal=False)
    assert estimate(encoder, Load("x"), AVX2).cache == 0


def test_hostile_sizes_end_at_what_json_represents() -> None:
    huge = 1 << 200
    sizes = ModelSizes(data=huge, keys=huge, vocabulary=huge, context=huge, heads=huge)
    assert estimate(sizes, Load("x", ctx_size=0), AVX2).total == 1 << 53


@pytest.mark.parametrize(
    ("machine", "features", "types"),
    [
        ("x86_64", "flags : sse4_2 avx avx2", {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
        ("x86_64", "flags : avx2 avx512f", {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"}),
        ("x86_64", "flags : sse4_2 avx", set()),
        ("x86_64", "flags : avx2 avx512f amx_int8", set()),
        ("AMD64", None, {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
        ("aarch64", "Features : fp asimd asimddp",
         {"Q4_0", "Q8_0", "IQ4_NL", "MXFP4", "Q4_K", "Q5_K", "Q6_K"}),
        ("aarch64", "Features : fp asimd", set()),
        ("riscv64", None, set()),
    ],
)  # fmt: skip
def test_types_that_a_processor_repacks(
    tmp_path: Path, machine: str, features: str | None, types: set[str]
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if features is not None:
        cpuinfo.write_text(f"processor : 0\n{features}\n")
    assert set(repacked_types(cpuinfo, machine)) == types


@pytest.mark.parametrize(("vocabulary", "each"), [(150_000, 1000), (262_144, 720)])
def test_large_vocabularies_have_fewer_sets_of_tokens(vocabulary: int, each: int) -> None:
    """``benchmarks/memory.py`` measures both."""
    sizes = replace(LLAMA_8B, vocabulary=vocabulary, merges=0)
    assert estimate(sizes, Load("x"), AVX2).vocabulary == each * vocabulary
    inputs = replace(sizes, generates=False)
    assert estimate(inputs, Load("x"), AVX2).vocabulary == 200 * vocabulary


def test_a_draft_model_shares_the_process() -> None:
    small = replace(LLAMA_8B, data=LLAMA_8B.data // 8, keys=LLAMA_8B.keys // 4)
    load = Load("x", ctx_size=8192, parallel=2, draft_model="y")
    plain = estimate(LLAMA_8B, load, AVX2)
    both = estimate(LLAMA_8B, load, AVX2, draft=small)
    alone = estimate(small, Load("y", ctx_size=8192, parallel=2, batch_size=64), AVX2)
    texts = 800 * small.vocabulary  # its pieces, and their form for grammars
    assert both.total - plain.total == both.draft == alone.total - alone.process - texts
    assert (plain.draft, both.dropped) == (0, plain.dropped)
