"""Rows that mislead the fast paths: samples, block maxima, short lists. Results stay right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from sampling_cases import ISAS

from offgrid.sampling import Sampler, SamplingParams

BORDERS = [n + d for n in (512, 1024, 4096, 16_384) for d in (-32, -17, -16, -1, 0, 1, 15, 16, 33)]
BIG = 128_256
POSITIONS = 4


def check_nucleus(row: np.ndarray, p: float, isa: str | None = None, **fields) -> int:
    """Draw from the nucleus of a row, check its total, its tokens and the draw; return its size.

    The kept total follows from the post-sampling logprob of the drawn token. The kept set is then
    that many of the most likely tokens, with ties in order of id.
    """
    params = SamplingParams(top_p=p, seed=17, **fields)
    weights = np.exp((row.astype(np.float64) - row.max()) / np.float32(params.temperature))
    share = weights / weights.sum()
    order = np.argsort(-row, kind="stable")
    mass = np.cumsum(share[order])
    goal = float(np.float32(p))
    # The smallest and the largest number of tokens that rounding allows.
    fewest = int(np.searchsorted(mass, goal * (1 - 2e-6))) + 1
    most = min(int(np.searchsorted(mass, goal * (1 + 2e-6))) + 1, len(row))
    sampler = Sampler(len(row), params, isa=isa)
    for position in range(POSITIONS):
        result = sampler.sample(row, top_logprobs=50, post_sampling=True)
        got = share[result.token] / math.exp(result.logprob)
        assert mass[fewest - 1] * (1 - 1e-5) <= got <= mass[most - 1] * (1 + 1e-5)
        best = [token for token, _ in result.top_logprobs]
        assert share[best] == pytest.approx(share[order[: len(best)]], rel=1e-5)
        count = int(np.clip(np.searchsorted(mass, got * (1 - 1e-9)) + 1, fewest, most))
        if fewest == most:
            kept = np.zeros(len(row))
            kept[order[:count]] = share[order[:count]]
            above = np.cumsum(kept / kept.sum())
            u = reference.coin(17, 0, position)
            assert kept[result.token] > 0, "a token outside the nucleus was drawn"
            below = above[result.token] - kept[result.token] / kept.sum()
            assert below - 1e-5 <= u <= above[result.token] + 1e-5
    return most


@pytest.mark.parametrize("p", [0.0, 0.001, 0.3, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [600, 4097, 32_000, BIG])
def test_all_equal_rows_keep_the_lowest_ids(n, p):
    """ceil(p * n) tokens stay, and the draw is that from as many equal tokens."""
    count = max(1, math.ceil(float(np.float32(p)) * n))
    sampler = Sampler(n, SamplingParams(top_p=p, seed=3))
    row = np.full(n, -7.5, np.float32)
    for position in range(POSITIONS):
        result = sampler.sample(row, top_logprobs=3, post_sampling=True)
        assert round(math.exp(-result.logprob)) == pytest.approx(count, abs=1)
        assert result.token == pytest.approx(reference.coin(3, 0, position) * count, abs=2)
        assert [t for t, _ in result.top_logprobs] == list(range(min(3, count)))


@pytest.mark.parametrize("n", BORDERS)
def test_lengths_about_the_borders_of_blocks_and_lists(n):
    rng = np.random.default_rng(n)
    for row in (
        rng.normal(0, 2, n),
        rng.normal(0, 0.1, n),
        np.round(rng.normal(0, 1, n)),
        np.where(np.arange(n) == n - 1, 12.0, rng.normal(0, 1, n)),
    ):
        for p in (0.4, 0.95):
            check_nucleus(row.astype(np.float32), p)


@pytest.mark.parametrize("period", [2, 3, 16, 64, 125, 250, 256, 501, 512, 1002])
@pytest.mark.parametrize("n", [32_000, BIG])
def test_rows_with_a_period(n, period):
    """Large values at regular distances: a sample with strides finds all of them or none."""
    for first in (0, period // 2):
        row = np.random.default_rng(period).normal(0, 0.5, n).astype(np.float32)
        row[first::period] += 6
        check_nucleus(row, 0.9)


def probed(n: int, size: int) -> np.ndarray:
    """Return the places at which a row is sampled (probe_place in og_select.c)."""
    stretch = (n << 32) // size
    jitter = [(i + 1) * 2654435769 % 2**32 >> 16 for i in range(size)]
    return np.array([(i * stretch + jitter[i] * (stretch >> 16)) >> 32 for i in range(size)])


@pytest.mark.parametrize("value", [-8.0, 8.0])
@pytest.mark.parametrize(("n", "size"), [(9000, 562), (32_000, 2000), (BIG, 2048), (BIG, 64)])
def test_rows_with_misleading_values_at_the_sampled_places(n, size, value):
    """All sampled values are far from the rest, so that the guess is wrong."""
    row = np.random.default_rng(n).normal(0, 1, n).astype(np.float32)
    places = probed(n, size)
    row[places] = value + np.linspace(0, 1, size)
    for p in (0.001, 0.5, 0.9, 0.999):
        check_nucleus(row, p)
    for k in (size - 1, size + 1, n // 25, n // 3):
        result = Sampler(n, SamplingParams(top_k=k, temperature=1e6, seed=1)).sample(
            row, top_logprobs=0, post_sampling=True
        )
        assert round(math.exp(-result.logprob)) == pytest.approx(k, rel=1e-3)


@pytest.mark.parametrize("p", [0.5, 0.89, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("isa", ISAS)
def test_three_likely_tokens_and_a_flat_tail(p, isa):
    """Three tokens have 90 %, so the border is in a tail whose values differ little."""
    tail = np.full(BIG, math.log(0.1 / BIG))
    tail[[5, 70_000, BIG - 1]] = math.log(0.3)
    check_nucleus(tail.astype(np.float32), p, isa)
    noisy = tail + np.random.default_rng(0).normal(0, 0.01, BIG)
    check_nucleus(noisy.astype(np.float32), p, isa)


@pytest.mark.parametrize("many", [1, 100, 3000, 64_128, BIG - 1])
@pytest.mark.parametrize("gap", [0.5, 8.0, 60.0])
def test_two_valued_rows(many, gap):
    row = np.full(BIG, -gap, np.float32)
    row[np.random.default_rng(many).choice(BIG, many, replace=False)] = 0.0
    for p in (0.3, 0.95):
        check_nucleus(row, p)


@pytest.mark.parametrize("above", [0, 1, 400, 5000, 30_000])
@pytest.mark.parametrize("n", [9000, 60_000, BIG])
def test_a_run_of_ties_across_the_border(n, above):
    """Half of the tied tokens stay: those with the lowest ids."""
    above = min(above, n // 3)
    places = np.random.default_rng(above).permutation(n)
    row = np.full(n, -4.0, np.float32)
    row[places[:above]] = 2.0
    ties = np.sort(places[above : above + n // 3])
    row[ties] = 0.0
    weights = np.exp(row.astype(np.float64))
    half = len(ties) // 2
    p = (weights[places[:above]].sum() + half - 0.5) / weights.sum()
    sampler = Sampler(n, SamplingParams(top_p=float(p), seed=1))
    drawn = {sampler.sample(row) for _ in range(40)}
    tied = [token for token in drawn if row[token] == 0.0]
    assert all(row[token] >= 0 for token in drawn)
    assert all(token <= ties[half + 1] for token in tied)
    check_nucleus(row, float(p))


@pytest.mark.parametrize("k", [1, 2, 39, 125, 126, 512, 513, 5000, 20_000, 100_000])
@pytest.mark.parametrize("kind", ["normal", "tied", "ascending", "two", "one block"])
def test_the_k_largest(k, kind):
    """Lists from block maxima, from a sample, and from the slow path: exact, ties by id."""
    n, rng = BIG, np.random.default_rng(k)
    row = {
        "normal": lambda: rng.normal(0, 2, n),
        "tied": lambda: np.round(rng.normal(0, 1, n)),
        "ascending": lambda: np.linspace(-9, 9, n),
        "two": lambda: np.where(np.arange(n) % 3 == 0, 1.0, 0.0),
        "one block": lambda: np.where(np.arange(n) < 512, rng.normal(9, 1, n), -1e-3 * (n % 7)),
    }[kind]().astype(np.float32)
    kept = np.sort(np.argsort(-row, kind="stable")[:k])
    weights = np.exp(row[kept].astype(np.float64) - row.max())
    above = np.cumsum(weights / weights.sum())
    sampler = Sampler(n, SamplingParams(top_k=k, seed=2))
    for position in range(POSITIONS):
        result = sampler.sample(row, top_logprobs=20, post_sampling=True)
        at = np.searchsorted(kept, result.token)
        assert kept[at] == result.token
        share = weights[at] / weights.sum()
        assert result.logprob == pytest.approx(math.log(share), abs=1e-4)
        u = reference.coin(2, 0, position)
        assert above[at] - share - 1e-5 <= u <= above[at] + 1e-5
        best = np.argsort(-row, kind="stable")[: min(k, 20)]
        assert [token for token, _ in result.top_logprobs] == list(best) or kind == "normal"


@pytest.mark.parametrize(
    ("n", "scale"),
    [
        (32_000, 0.0),
        (32_000, 0.2),
        (32_000, 3.0),
        (BIG, 0.0),
        # The reference is slow.
        pytest.param(BIG, 0.2, marks=pytest.mark.slow),
        pytest.param(BIG, 3.0, marks=pytest.mark.slow),
    ],
)
def test_all_truncation_at_real_size(n, scale):
    """Values on a grid, so that the reference and our code see the same ties."""
    row = (np.round(np.random.default_rng(n).normal(0, scale, n) * 8) / 8).astype(np.float32)
    row[::1001] = -np.inf
    for fields in (
        {"typical_p": 0.6},
        {"top_n_sigma": 1.3, "min_p": 0.05},
        {"top_k": 3000, "top_p": 0.9},
        {"typical_p": 0.9, "top_p": 0.8, "min_keep": 50},
        {"dynatemp_range": 0.5, "xtc_probability": 1.0, "xtc_threshold": 1e-4},
    ):
        params = SamplingParams(seed=4, **fields)
        result = Sampler(n, params).sample(row, top_logprobs=0, post_sampling=True)
        readings = [
            reference.kept(row, params, reference.coin(4, 0, 0, reference.XTC), slack=slack)
            for slack in reference.readings(params, 2e-6)
        ]
        ours = math.exp(result.logprob)
        # Between the smallest and the largest probability that a reading gives this token.
        masses = [p[result.token] for p in readings if p[result.token] > 0]
        assert min(masses) * (1 - 1e-3) <= ours <= max(masses) * (1 + 1e-3)
