"""Flash attention by measurement: the choice from simulated times, and what is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import make

from offgrid.engine.attention import MAX_SCORES, Choice, fixed_choice
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.attention_choice import ALLOWED, STREAMS, Case, cases_of, choose
from offgrid.engine.worker.llama import attention_trial
from offgrid.engine.worker.llama.attention import (
    WEIGHTS,
    Attention,
    Shape,
    measure_attention,
)
from offgrid.engine.worker.llama.ggml import F16, F32, GgmlMissing
from offgrid.engine.worker.llama.kv_types import GGML_TYPES
from offgrid.engine.worker.llama.model import Model

CONTEXTS = (64, 256, 1024, 4096)


def decode(*ratios: float) -> list[Case]:
    """Cases of one stream with the given times without flash attention, relative to with it."""
    return [
        Case(context, 1, False, on=0.01, off=0.01 * ratio)
        for context, ratio in zip(CONTEXTS, ratios, strict=True)
    ]


# --- the choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "on"),
    [
        ((1.13, 1.05, 0.85, 0.80), True),  # SmolLM2 on AVX2: short chats need it
        ((1.06, 1.10, 1.12, 1.20), True),  # Gemma 3: it is better everywhere
        ((1.01, 1.00, 0.95, 0.85), False),  # a large model: only long contexts differ
        ((1.00, 1.00, 0.99, 0.98), True),  # hardly a difference
        ((0.70, 0.60, 0.50, 0.40), False),  # it is slow everywhere
        ((0.50, 0.50, 0.50, 1.06), True),  # one length would be slower than allowed
    ],
)
def test_simulated_machines(ratios: tuple[float, ...], on: bool) -> None:
    choice = choose(decode(*ratios))
    assert choice.on == on
    assert choice.reason


def test_the_reason_names_the_case() -> None:
    assert str(choose(decode(1.13, 1.0, 0.9, 0.8))) == (
        "flash attention on (without it, 1 stream at 64 tokens takes 1.13 times as long)"
    )
    assert str(choose(decode(1.0, 1.0, 0.9, 0.5))) == (
        "flash attention off (with it, 1 stream at 4,096 tokens takes 2.00 times as long)"
    )
    prompt = Case(512, 64, True, on=1.0, off=1.2)
    assert "without it, a prompt at 512 tokens takes 1.20" in choose([prompt]).reason


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [Case(64, 1, False, on=0.0, off=1.0)],
        [*decode(0.5, 0.5, 0.5, 0.5), Case(9, 1, False, on=1.0, off=0.0)],
    ],
)
def test_without_a_sound_measurement_it_is_on(bad: list[Case]) -> None:
    assert choose(bad) == Choice(True, "the measurement failed")


@given(
    st.lists(
        st.builds(
            Case,
            st.sampled_from(CONTEXTS), st.integers(1, 8), st.booleans(),
            st.floats(1e-4, 1.0), st.floats(1e-4, 1.0), st.floats(0.1, 9.0),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_no_case_is_much_slower_than_llama_server(cases: list[Case]) -> None:
    """llama-server always has it on."""
    choice = choose(cases)
    weights = sum(case.weight for case in cases)
    mean = sum(case.weight * case.on / case.off for case in cases) / weights
    if not choice.on:
        assert all(case.off <= ALLOWED * case.on * (1 + 1e-9) for case in cases)
        assert mean > 1
    elif all(case.off < ALLOWED * case.on * (1 - 1e-9) for case in cases):
        assert mean < 1.03


def test_weights_count() -> None:
    rare, usual = Case(4096, 1, False, 1.0, 0.9, 1.0), Case(64, 1, False, 1.0, 1.04, 9.0)
    assert choose([rare, usual]).on
    often = Case(4096, 1, False, 1.0, 0.9, 9.0)
    assert not choose([often, usual]).on


def test_whole_steps() -> None:
    """A step is the rest of it and the attention of each stream, divided among the threads."""
    found = cases_of(
        {(64, 1): (0.002, 0.004), (512, 64): (0.1, 0.3)}, {1: 0.02, STREAMS: 0.05},
        {(64, 1): 3.0, (512, 64): 1.0}, layers=0, threads=2, streams=8,
    )  # fmt: skip
    assert [(case.context, case.rows, case.prefill, case.weight) for case in found] == [
        (64, 1, False, 3.0), (64, 4, False, 3.0), (512, 64, True, 1.0)
    ]  # fmt: skip
    assert [case.on for case in found] == pytest.approx([0.011, 0.029, 0.45])
    assert [case.off for case in found] == pytest.approx([0.012, 0.033, 0.55])
    assert str(found[1]) == "4 streams at 64 tokens"


def test_threads_wait_for_each_other_less_often_with_it() -> None:
    attention, rest = {(64, 1): (0.001, 0.001)}, {1: 0.01, STREAMS: 0.02}
    ratios = [
        cases_of(attention, rest, {(64, 1): 1.0}, layers=30, threads=threads, streams=1)[0].ratio
        for threads in (1, 2)
    ]
    assert ratios[0] == 1.0
    assert ratios[1] > 1.0


# --- where nothing is measured ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"flash_attention": "on"}, Choice(True, "as set")),
        ({"flash_attention": "off"}, Choice(False, "as set")),
        ({"kv_type_v": "q8_0"}, Choice(True, "q8_0 values need it")),
        ({"kv_type_k": "q8_0"}, None),
        ({"gpu_layers": -1}, Choice(True, "layers on a GPU")),
        ({"gpu_layers": -1, "flash_attention": "off"}, Choice(False, "as set")),
    ],
)
def test_settings_come_first(fields: dict[str, Any], choice: Choice | None) -> None:
    assert fixed_choice(Load("x", **fields), 4096, 512, 9) == choice


def test_scores_that_would_take_much_memory() -> None:
    context = MAX_SCORES // (4 * 512 * 8)
    assert fixed_choice(Load("x"), context, 512, 8) is None
    choice = fixed_choice(Load("x"), context + 1, 512, 8)
    assert choice == Choice(True, "scores would take 513 MiB")


# --- what is measured ---------------------------------------------------------------------------


def softmax_attention(
    query: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The readable definition: one query of each head over the keys of its group."""
    heads, size = query.shape
    group = heads // keys.shape[1]
    results = []
    for head in range(heads):
        scores = keys[:, head // group] @ query[head] / size**0.5
        weights = np.exp(scores - scores.max())
        results.append(weights @ values[:, head // group] / weights.sum())
    return np.concatenate(results)


@pytest.mark.parametrize("context", [5, 256, 300])
@pytest.mark.parametrize("flash", [True, False])
def test_the_measured_graph_computes_attention(context: int, flash: bool) -> None:
    """Both ways: over the tokens of the context, and not over the cells after them."""
    shape = Shape(layers=2, heads=6, kv_heads=2, key=32, value=64)
    cells, rng = 512, np.random.default_rng(1)
    attention = Attention(shape, context, 1, cells, flash=flash, layers=2)
    graph = attention.graph
    query = rng.standard_normal((6, 32), dtype=np.float32)
    keys = rng.standard_normal((cells, 2, 32)).astype(np.float16)
    values = rng.standard_normal((cells, 2, 64)).astype(np.float16)
    stored = values if flash else values.reshape(cells, -1).T
    for tensor, content in (
        (attention.query, query), (attention.keys, keys), (attention.values, stored)
    ):  # fmt: skip
        graph.data(tensor)[:] = np.ascontiguousarray(content).view(np.uint8).ravel()
    assert attention.seconds(itertools.count().__next__) == 0.5  # one tick for two layers
    result = graph.data(attention.result).view(np.float32)
    # What the graph stores first is a value of zeros, in the first cell without flash attention.
    expected_values = values[:context].astype(np.float32)
    if not flash:
        expected_values[0] = 0.0
    expected = softmax_attention(query, keys[:context].astype(np.float32), expected_values)
    np.testing.assert_allclose(result, expected, atol=5e-3)
    graph.close()


def test_the_least_time_of_each_case_counts() -> None:
    """With a clock that ticks once for each reading, every computation takes one second."""
    shape = Shape(layers=3, heads=2, kv_heads=1, key=32, value=32)
    found = measure_attention(shape, WEIGHTS, itertools.count().__next__)
    assert found.keys() == WEIGHTS.keys()
    streams = {times for (_, rows), times in found.items() if rows == 1}
    assert streams == {(1.0, 1.0)}  # all layers at once
    assert {times for (_, rows), times in found.items() if rows > 1} == {(3.0, 3.0)}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models are measured too."""
    monkeypatch.setattr(attention_trial, "_SMALL", 0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")
    return lambda architecture: make(architecture, folder)


def choice_of(path: Path, **fields: Any) -> Choice:
    model = Model(Load(str(path), ctx_size=1024, parallel=2, batch_size=64, threads=1, **fields))
    model.close()
    assert (model.info.flash_attention, model.info.attention_reason) == (
        model.attention.on, model.attention.reason
    )  # fmt: skip
    return model.attention


def test_a_small_model_is_not_measured(tiny: Callable[[str], Path]) -> None:
    assert choice_of(tiny("llama")) == Choice(False, "the model is small")


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("keys", "values"), [("f16", "f16"), ("f32", "f32"), ("bf16", "f32"), ("f32", "bf16")]
)
def test_a_model_is_measured_when_it_is_loaded(
    tiny: Callable[[str], Path], keys: str, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Case] = []
    monkeypatch.setattr(
        attention_trial, "choose", lambda cases: seen.extend(cases) or Choice(False, "simulated")
    )
    monkeypatch.setattr(attention_trial, "needs_flash", lambda cases: False)
    choice = choice_of(tiny("llama"), kv_type_k=keys, kv_type_v=values)
    assert choice == Choice(False, "simulated")
    assert {(case.context, case.rows) for case in seen} == {
        (64, 1), (64, 2), (256, 1), (256, 2), (1024, 1), (1024, 2), (512, 64)
    }  # fmt: skip
    assert all(case.on > 0 and case.off > 0 for case in seen)


@pytest.mark.usefixtures("measured")
def test_long_contexts_are_not_measured_if_short_ones_decide(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[list[tuple[int, int]]] = []

    def measure(shape: Shape, cases: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
        contexts.append(cases)
        return {case: (1.0, 2.0) for case in cases}

    monkeypatch.setattr(attention_trial, "measure_attention", measure)
    assert choice_of(tiny("llama")).on
    assert contexts == [[(64, 1)]]


@pytest.mark.parametrize(
    "kinds", [(F32, F32), (GGML_TYPES["q8_0"], F16), (GGML_TYPES["q4_0"], GGML_TYPES["bf16"])]
)
def test_other_types_are_measured_too(kinds: tuple[int, int]) -> None:
    shape = Shape(layers=2, heads=4, kv_heads=2, key=64, value=32, type_k=kinds[0], type_v=kinds[1])
    found = measure_attention(shape, [(64, 1), (512, 64)], itertools.count().__next__)
    assert found == {(64, 1): (1.0, 1.0), (512, 64): (2.0, 2.0)}


@pytest.mark.usefixtures("measured")
def test_a_context_too_short_to_measure(tiny: Callable[[str], Path]) -> None:
    model = Model(Load(str(tiny("llama")), ctx_size=32, parallel=1, batch_size=32, threads=1))
    model.close()
    assert model.attention == Choice(True, "the context is short")


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_recurrent_models_are_not_measured(tiny: Callable[[str], Path], architecture: str) -> None:
    assert choice_of(tiny(architecture)) == Choice(True, "attention of this kind is not measured")


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("error", [GgmlMissing("no library"), MemoryError()])
def test_where_nothing_can_be_measured_it_is_on(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(attention_trial, "measure_attention", fail)
    assert choice_of(tiny("llama")) == Choice(True, "the measurement failed")


@pytest.mark.usefixtures("measured")
def test_a_large_model_is_not_computed_for_it(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a step is estimated from the size of the weights."""
    monkeypatch.setattr(attention_trial, "_LARGE", 0)
    monkeypatch.setattr(attention_trial, "measure_rest", lambda *arguments: pytest.fail("called"))
    assert choice_of(tiny("gemma3")).reason


def test_a_setting_overrides_the_measurement(tiny: Callable[[str], Path]) -> None:
    assert choice_of(tiny("llama"), flash_attention="on") == Choice(True, "as set")
    assert choice_of(tiny("llama"), flash_attention="off") == Choice(False, "as set")
