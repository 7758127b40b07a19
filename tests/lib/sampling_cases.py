"""Rows and parameters for tests of the sampler, and checks of its draws against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import reference
from hypothesis import strategies as st

from offgrid.sampling import SampleResult, SamplingParams, instruction_sets
from offgrid.sampling.params import MAX_TOP_LOGPROBS

ISAS = instruction_sets()

# A coarse grid: exact ties are frequent, and other values differ by more than rounding.
GRID_VALUE = st.integers(-160, 160).map(lambda value: value / 8)


@st.composite
def rows(draw, min_size=1, max_size=300):
    """Peaked, flat and tied rows, some tokens at -infinity, some values tiny or huge."""
    n = draw(st.integers(min_size, max_size))
    few = draw(st.lists(GRID_VALUE, min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 0.5, 2.0, 6.0]))
    row = np.round(rng.normal(0, scale, n) * 8) / 8 if scale else rng.choice(few, n)
    row = row.astype(np.float32)
    special = st.sampled_from([-np.inf, -np.inf, -3e38, -1e-40, 1e-40, -0.0])
    for token in draw(st.lists(st.integers(0, n - 1), max_size=5)):
        row[token] = draw(special)
    row[draw(st.integers(0, n - 1))] = draw(GRID_VALUE)
    return row


def old_fields(n: int) -> dict[str, Any]:
    """Strategies for bias, penalties, temperature, top_p and top_k."""
    bias = st.one_of(st.just(False), st.just(-math.inf), GRID_VALUE)
    return {
        "temperature": st.sampled_from([0.1, 0.7, 1.0, 1.3, 3.0]),
        "top_p": st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 1.0]),
        "top_k": st.one_of(st.just(0), st.integers(1, n + 2)),
        "min_p": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.5, -2.0, 2.0]),
        "presence_penalty": st.sampled_from([0.0, 0.25, -2.0, 2.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.25, 0.5]),
        "repeat_last_n": st.sampled_from([-1, 0, 1, 3, 64]),
        "logit_bias": st.dictionaries(st.integers(0, n - 1), bias, max_size=4),
    }


def truncation_fields() -> dict[str, Any]:
    """Strategies for all steps between the penalties and the draw that old_fields lacks."""
    return {
        "top_n_sigma": st.sampled_from([0.3, 1.0, 2.5]),
        "typical_p": st.sampled_from([0.0, 0.2, 0.6, 0.95]),
        "xtc_probability": st.sampled_from([0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.6]),
        "dynatemp_range": st.sampled_from([0.3, 0.8, 2.0]),
        "dynatemp_exponent": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "p_less": st.just(True),
        "min_keep": st.sampled_from([1, 2, 5, 400]),
    }


def dry_fields(n: int) -> dict[str, Any]:
    ids = st.integers(0, n - 1)
    return {
        "dry_multiplier": st.sampled_from([0.5, 3.0]),
        "dry_base": st.sampled_from([1.0, 1.75, 4.0]),
        "dry_allowed_length": st.integers(0, 4),
        "dry_penalty_last_n": st.sampled_from([-1, 0, 1, 2, 5, 20]),
        "dry_breakers": st.lists(st.lists(ids, min_size=1, max_size=3), max_size=3),
    }


@st.composite
def chosen_from(draw, strategies: dict[str, Any], most: int, **fixed):
    """Give up to ``most`` fields a value of their strategy and leave the rest at their defaults."""
    names = draw(st.lists(st.sampled_from(sorted(strategies)), max_size=most, unique=True))
    values = {name: draw(strategies[name]) for name in names}
    return SamplingParams(**{"seed": draw(st.integers(0, 2**64 - 1)), **values, **fixed})


def words_of(allowed: set[int], n: int) -> np.ndarray:
    """Return the mask that allows these tokens."""
    words = np.zeros((n + 31) // 32, dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words


def follows(
    result: SampleResult, row: np.ndarray, params: SamplingParams, position: int, mu: float
) -> np.ndarray | None:
    """Compare a draw and all its post-sampling logprobs with the reference.

    ``row`` is the adjusted row. Returns the probabilities of the reading that the draw follows, or
    None if it follows none.
    """
    seed = params.seed % 2**64
    u = reference.coin(seed, 0, position)
    xtc_coin = reference.coin(seed, 0, position, reference.XTC)
    for slack in reference.readings(params):
        probabilities = reference.kept(row, params, xtc_coin, mu, slack)
        if equals(result, probabilities, params) and result.token in reference.drawn_by(
            probabilities, u
        ):
            return probabilities
    return None


def equals(result: SampleResult, probabilities: np.ndarray, params: SamplingParams) -> bool:
    """Whether the kept tokens and their logprobs equal those of the reference."""
    tokens = np.array([token for token, _ in result.top_logprobs], dtype=int)
    got = np.array([logprob for _, logprob in result.top_logprobs])
    if list(result.top_logprobs) != sorted(result.top_logprobs, key=lambda t: (-t[1], t[0])):
        return False
    with np.errstate(divide="ignore"):
        expected = np.log(probabilities)
    # A probability below 1e-30 may underflow float32.
    sure = np.flatnonzero(expected > math.log(1e-30))
    missing = np.setdiff1d(sure, tokens)
    if len(missing) and (
        len(tokens) < MAX_TOP_LOGPROBS or expected[missing].max() > got.min() + 2e-4
    ):
        return False
    likely = got > math.log(1e-30)
    relative = 2e-3 if params.dynatemp_range else 1e-5
    return (
        result.logprob == dict(result.top_logprobs).get(result.token, result.logprob)
        and np.allclose(got[likely], expected[tokens[likely]], rtol=relative, atol=2e-4)
        and (expected[tokens[~likely]] < math.log(1e-29)).all()
    )
