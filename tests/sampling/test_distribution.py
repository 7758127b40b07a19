"""Chi-square tests that draws follow the distribution; with fixed seeds the result is constant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference

from offgrid.sampling import Sampler, SamplingParams

DRAWS = 40_000


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the statistic as a number of standard deviations above its mean."""
    expected = probabilities * counts.sum()
    used = expected > 0
    assert counts[~used].sum() == 0, "a dropped token was drawn"
    freedom = used.sum() - 1
    statistic = ((counts[used] - expected[used]) ** 2 / expected[used]).sum()
    return (statistic - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 2.0, "top_k": 20},
        {"logit_bias": {3: 2.0, 7: -1.0}, "top_p": 0.95},
        {"typical_p": 0.7},
        {"temperature": 0.8, "dynatemp_range": 0.5, "dynatemp_exponent": 1.2},
        # Other combinations of the same steps; each step is compared with its definition elsewhere.
        pytest.param({"temperature": 0.5}, marks=pytest.mark.slow),
        pytest.param({"top_p": 0.8}, marks=pytest.mark.slow),
        pytest.param({"temperature": 1.3, "top_p": 0.9, "min_p": 0.02}, marks=pytest.mark.slow),
        pytest.param({"top_n_sigma": 1.5}, marks=pytest.mark.slow),
        pytest.param(
            {"typical_p": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "min_keep": 3},
            marks=pytest.mark.slow,
        ),
        {"mirostat": 1, "mirostat_tau": 2.0, "mirostat_eta": 0.0},
        {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.0},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(fields):
    row = np.random.default_rng(8).normal(0, 1, 64).astype(np.float32)
    params = SamplingParams(seed=12345, **fields)
    sampler = Sampler(64, params)
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    mu = 2 * params.mirostat_tau
    probabilities = reference.kept(reference.adjusted(row, params), params, mu=mu)
    assert abs(chi_square(counts, probabilities)) < 4


@pytest.mark.parametrize("chance", [0.1, 0.5, 1.0])
def test_xtc_mixes_two_distributions(chance):
    """A separate random number chooses the truncated one with probability ``chance``."""
    row = np.random.default_rng(8).normal(0, 1.5, 64).astype(np.float32)
    params = SamplingParams(seed=6, xtc_probability=chance, xtc_threshold=0.05)
    sampler = Sampler(64, params)
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    cut, whole = reference.kept(row, params, 0.0), reference.kept(row, params, 1.0)
    assert np.count_nonzero(cut) < 63
    assert abs(chi_square(counts, chance * cut + (1 - chance) * whole)) < 4


def test_dry_lowers_the_probability_of_repetitions():
    row = np.random.default_rng(8).normal(0, 1, 64).astype(np.float32)
    params, prompt = SamplingParams(seed=5, dry_multiplier=0.8), [1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3]
    sampler = Sampler(64, params, prompt_tokens=prompt)
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    expected = reference.adjusted(row, params, prompt)
    assert np.flatnonzero(row != expected).tolist() == [8, 9]
    assert abs(chi_square(counts, reference.kept(expected, params))) < 4


@pytest.mark.parametrize(
    ("fields", "draws"),
    [
        ({}, 1500),
        ({"min_p": 0.5}, 1500),
        ({"top_p": 0.9}, 500),
        # Draws from a truncated row take milliseconds each, and all find its ties in the same way.
        pytest.param({"top_p": 0.9}, 1500, marks=pytest.mark.slow),
        pytest.param({"top_k": 64_000}, 1500, marks=pytest.mark.slow),
        pytest.param({"typical_p": 0.95}, 1500, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_flat_row_of_real_size_is_filled_evenly(fields, draws):
    """Count draws in 100 ranges of ids; of equally likely tokens the lowest ids are kept."""
    n = 128_256
    params = SamplingParams(seed=11, **fields)
    sampler, row = Sampler(n, params), np.zeros(n, np.float32)
    tokens = np.array([sampler.sample(row) for _ in range(draws)])
    share = fields.get("top_p", fields.get("typical_p", fields.get("top_k", n) / n))
    count = math.ceil(float(np.float32(share)) * n)
    assert tokens.max() <= count
    counts = np.bincount(tokens * 100 // (count + 1), minlength=100)
    assert abs(chi_square(counts, np.full(100, 1 / 100))) < 4


def test_choices_of_one_seed_are_independent():
    """Pairs of draws of two choices at the same position fill the square evenly."""
    row = np.zeros(8, dtype=np.float32)
    samplers = [Sampler(8, SamplingParams(seed=1), choice=choice) for choice in (0, 1)]
    pairs = [samplers[0].sample(row) * 8 + samplers[1].sample(row) for _ in range(DRAWS)]
    counts = np.bincount(pairs, minlength=64)
    assert abs(chi_square(counts, np.full(64, 1 / 64))) < 4


def test_the_chi_square_can_fail():
    """A sampler that ignored temperature would fail the test."""
    row = np.random.default_rng(8).normal(0, 1, 64).astype(np.float32)
    sampler = Sampler(64, SamplingParams(seed=12345))
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    wrong = reference.kept(row, SamplingParams(temperature=0.9))
    assert chi_square(counts, wrong) > 10
