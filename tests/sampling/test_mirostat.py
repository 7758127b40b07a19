"""Mirostat 1 and 2 against the reference: the kept and drawn tokens, and how mu moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import ISAS, chosen_from, dry_fields, follows, old_fields, rows

from offgrid.sampling import Sampler, SamplingError, SamplingParams


def mirostat_params(n: int, version: int):
    """Mirostat after penalties; it ignores all truncation parameters."""
    strategies = {
        **old_fields(n),
        **dry_fields(n),
        "mirostat_tau": st.sampled_from([0.0, 1.0, 3.0, 9.0]),
        "mirostat_eta": st.sampled_from([0.0, 0.1, 1.0]),
        "typical_p": st.just(0.1),
        "top_n_sigma": st.just(0.1),
        "dynatemp_range": st.just(0.4),
    }
    return chosen_from(strategies, 5, mirostat=version)


@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_draws_and_mu_follow_the_paper(version, data):
    compare_with_the_paper(version, data)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_draws_and_mu_follow_the_paper_at_length(version, data):
    """The default run covers 50 examples of each version."""
    compare_with_the_paper(version, data)


def compare_with_the_paper(version, data):
    row = data.draw(rows())
    params = data.draw(mirostat_params(len(row), version))
    expected = reference.adjusted(row, params)
    if expected.max() == -np.inf:
        return
    sampler = Sampler(len(row), params, isa=data.draw(st.sampled_from(ISAS)))
    assert sampler.mu == 2 * params.mirostat_tau
    for position in range(4):
        mu = sampler.mu
        result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
        probabilities = follows(result, expected, params, position, mu)
        assert probabilities is not None
        wanted = reference.next_mu(mu, probabilities[result.token], params)
        tolerance = 1e-2 if params.dynatemp_range else 2e-4
        assert sampler.mu == pytest.approx(wanted, rel=0, abs=tolerance)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_the_surprise_approaches_its_target(version, tau):
    """Average over many draws from rows that follow Zipf's law."""
    row = (-1.1 * np.log(np.arange(1, 5001))).astype(np.float32)
    row = np.random.default_rng(0).permutation(row)
    params = SamplingParams(seed=9, mirostat=version, mirostat_tau=tau, mirostat_eta=0.1)
    sampler, surprises = Sampler(5000, params), []
    for _ in range(600):
        result = sampler.sample(row, top_logprobs=0, post_sampling=True)
        surprises.append(-result.logprob / math.log(2))
    assert np.mean(surprises[100:]) == pytest.approx(tau, abs=0.3)


@pytest.mark.parametrize("version", [1, 2])
def test_the_most_likely_token_always_stays(version):
    """However small the target surprise is."""
    row = np.array([0.0, 1.0, 0.5, -1.0], np.float32)
    params = SamplingParams(mirostat=version, mirostat_tau=0.0, mirostat_eta=10.0)
    sampler = Sampler(4, params)
    assert [sampler.sample(row) for _ in range(20)] == [1] * 20


@pytest.mark.parametrize("version", [1, 2])
def test_flat_rows_and_single_candidates(version):
    flat = np.zeros(300, np.float32)
    params = SamplingParams(mirostat=version, mirostat_tau=9.0, seed=2)
    result = Sampler(300, params).sample(flat, top_logprobs=0, post_sampling=True)
    assert result.logprob == pytest.approx(-math.log(300), abs=1e-5)
    alone = np.full(300, -np.inf, np.float32)
    alone[7] = -5.0
    assert Sampler(300, params).sample(alone) == 7
    assert Sampler(1, params).sample(np.zeros(1, np.float32)) == 0


def test_temperature_zero_stays_greedy_and_does_not_change_mu():
    row = np.array([0.0, 2.0, 2.0], np.float32)
    sampler = Sampler(3, SamplingParams(temperature=0, mirostat=2))
    assert [sampler.sample(row) for _ in range(3)] == [1] * 3
    assert sampler.mu == 10.0


def test_a_failed_draw_does_not_change_mu():
    sampler = Sampler(3, SamplingParams(mirostat=2, seed=1))
    row = np.array([0.0, 2.0, math.nan], np.float32)
    with pytest.raises(SamplingError, match="NaN"):
        sampler.sample(row)
    assert (sampler.mu, sampler.position) == (10.0, 0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_vocabulary_of_real_size(version):
    row = np.random.default_rng(3).normal(0, 2, 128_256).astype(np.float32)
    params = SamplingParams(mirostat=version, mirostat_tau=5.0, seed=4)
    sampler = Sampler(128_256, params)
    for position in range(3):
        mu = sampler.mu
        result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
        assert follows(result, row, params, position, mu) is not None
