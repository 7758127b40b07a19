"""Do the draws follow the distribution? Chi-square with fixed seeds: the verdict never changes."""

from __future__ import annotations

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
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 20},
        {"top_p": 0.8},
        {"temperature": 1.3, "top_p": 0.9, "min_p": 0.02},
        {"logit_bias": {3: 2.0, 7: -1.0}, "top_p": 0.95},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(fields):
    row = np.random.default_rng(8).normal(0, 1, 64).astype(np.float32)
    params = SamplingParams(seed=12345, **fields)
    sampler = Sampler(64, params)
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    probabilities = reference.kept(reference.adjusted(row, params), params)
    assert abs(chi_square(counts, probabilities)) < 4


def test_choices_of_one_seed_are_independent():
    """Pairs of draws of two choices at the same position fill the square evenly."""
    row = np.zeros(8, dtype=np.float32)
    samplers = [Sampler(8, SamplingParams(seed=1), choice=choice) for choice in (0, 1)]
    pairs = [samplers[0].sample(row) * 8 + samplers[1].sample(row) for _ in range(DRAWS)]
    counts = np.bincount(pairs, minlength=64)
    assert abs(chi_square(counts, np.full(64, 1 / 64))) < 4


def test_the_chi_square_can_fail():
    """A sampler that ignored temperature would be found out."""
    row = np.random.default_rng(8).normal(0, 1, 64).astype(np.float32)
    sampler = Sampler(64, SamplingParams(seed=12345))
    counts = np.bincount([sampler.sample(row) for _ in range(DRAWS)], minlength=64)
    wrong = reference.kept(row, SamplingParams(temperature=0.9))
    assert chi_square(counts, wrong) > 10
