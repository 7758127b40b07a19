"""All instruction sets of this machine give the same bits, and one can be chosen by name."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import (
    ISAS,
    chosen_from,
    dry_fields,
    old_fields,
    rows,
    truncation_fields,
    words_of,
)

from offgrid.errors import ConfigError
from offgrid.sampling import Sampler, SamplingError, SamplingParams


def bits(*numbers: float) -> bytes:
    return struct.pack(f"{len(numbers)}d", *numbers)


def trace(isa, row, params, draws, mask=None, ends=()) -> list:
    """All results of a sampler for a few draws, floats as bits."""
    sampler = Sampler(len(row), params, [0, 0, 0], end_tokens=ends, isa=isa)
    assert sampler.isa == isa
    said = []
    for draw in range(draws):
        try:
            result = sampler.sample(row, top_logprobs=8, mask=mask, post_sampling=draw % 2 == 1)
        except SamplingError as error:
            return [*said, error.code]
        said.append((result.token, bits(result.logprob, sampler.mu)))
        said.extend((token, bits(logprob)) for token, logprob in result.top_logprobs)
        sampler.accept(result.token)
    return said


def all_the_same(row, params, draws=4, **arguments) -> None:
    expected = trace(ISAS[0], row, params, draws, **arguments)
    for isa in ISAS[1:]:
        assert trace(isa, row, params, draws, **arguments) == expected, isa


def same_bits(data):
    """Rows that are not on a grid, so that every rounding shows."""
    row = data.draw(rows(max_size=700))
    n = len(row)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    row += rng.normal(0, data.draw(st.sampled_from([0, 1e-6, 1.0])), n).astype(np.float32)
    strategies = {**old_fields(n), **truncation_fields(), **dry_fields(n)}
    strategies.update(mirostat=st.sampled_from([1, 2]), min_tokens=st.integers(0, 3))
    params = data.draw(chosen_from(strategies, 7))
    allowed = data.draw(st.one_of(st.none(), st.sets(st.integers(0, n - 1), min_size=n // 2)))
    mask = None if allowed is None else words_of(allowed, n)
    all_the_same(row, params, mask=mask, ends=[0, n - 1])


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_same_bits_for_all_parameters(data):
    same_bits(data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_same_bits_for_all_parameters_at_length(data):
    """The default run covers 30 examples."""
    same_bits(data)


@pytest.mark.parametrize("n", [15, 16, 17, 31, 33, 511, 513, 4095, 4097, 16_385, 32_000])
@pytest.mark.parametrize("scale", [0.01, 2.0, 8.0])
def test_same_bits_for_rows_of_all_lengths(n, scale):
    row = np.random.default_rng(n).normal(0, scale, n).astype(np.float32)
    mask = np.random.default_rng(n).integers(0, 2**32, (n + 31) // 32, dtype=np.uint32)
    mask[0] |= 1
    for fields in (
        {},
        {"top_p": 0.9, "frequency_penalty": 0.7, "logit_bias": {0: 3.0, n - 1: 2.0}},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1},
        {"typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.001},
        {"top_n_sigma": 1.5, "dynatemp_range": 0.5, "dynatemp_exponent": 1.3},
        {"mirostat": 1, "mirostat_tau": 3.0},
        {"mirostat": 2, "mirostat_tau": 3.0},
    ):
        params = SamplingParams(seed=n, temperature=0.8, **fields)
        all_the_same(row, params, draws=3)
        all_the_same(row, params, draws=2, mask=mask)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 511, 512, 1000, 1036])
def test_same_errors(value, at):
    row = np.zeros(1037, np.float32)
    row[at] = value
    expected = ["nan_logits" if np.isnan(value) else "infinite_logits"]
    for isa in ISAS:
        assert trace(isa, row, SamplingParams(), 1) == expected
        # A mask that bans the token does not make the row valid.
        mask = words_of(set(range(1037)) - {at}, 1037)
        assert trace(isa, row, SamplingParams(), 1, mask=mask) == expected


def test_rows_are_not_read_past_their_end():
    """NaN is directly after the row in memory."""
    for n in (1, 5, 15, 17, 500, 513, 1030):
        memory = np.full(n + 64, np.nan, np.float32)
        memory[:n] = np.arange(n) % 5
        for isa in ISAS:
            for fields in ({}, {"top_k": 3}, {"mirostat": 1}, {"top_p": 0.5, "typical_p": 0.5}):
                sampler = Sampler(n, SamplingParams(**fields), isa=isa)
                result = sampler.sample(memory[:n], top_logprobs=5)
                assert np.isfinite(result.logprob)


# --- chosen by name ---------------------------------------------------------------------------


def test_the_fastest_is_the_default():
    assert ISAS[0] == "scalar"
    assert Sampler(3).isa == ISAS[-1]


@pytest.mark.parametrize("isa", [*ISAS, ""])
def test_the_environment_names_one(isa, tmp_path):
    program = "from offgrid.sampling import Sampler; print(Sampler(3).isa)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OFFGRID_ISA": isa},
        cwd=tmp_path,  # the source tree would be imported first, and is not compiled
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [isa or ISAS[-1]]


def test_an_unknown_one_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setenv("OFFGRID_ISA", "mmx")
    with pytest.raises(ConfigError, match=r"OFFGRID_ISA.*'mmx'.*scalar"):
        Sampler(3)
    assert Sampler(3, isa="scalar").isa == "scalar", "an argument goes before the environment"
    with pytest.raises(ConfigError, match="'sse9'"):
        Sampler(3, isa="sse9")
