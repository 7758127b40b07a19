"""Adaptive-p against the reference and llama.cpp: the drawn tokens, and how the mean moves."""

from __future__ import annotations

import ctypes
import math

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import ISAS, chosen_from, old_fields, rows, truncation_fields

from offgrid.sampling import Sampler, SamplingError, SamplingParams

NEAR = 2e-4
"""Relative tolerance; llama.cpp works in single precision."""


def adaptive_params(n: int):
    """Adaptive-p after penalties and truncation."""
    strategies = {
        **old_fields(n),
        **truncation_fields(),
        "adaptive_decay": st.sampled_from([0.0, 0.5, 0.99]),
    }
    del strategies["dynatemp_range"], strategies["dynatemp_exponent"]
    return chosen_from(strategies, 4, adaptive_target=0.4)


def equals(result, probabilities):
    """Whether a draw had these probabilities; many of them differ by less than rounding."""
    got = dict(result.top_logprobs)
    tokens = np.flatnonzero(probabilities).tolist()
    ordered = [logprob for _, logprob in result.top_logprobs]
    return (
        ordered == sorted(ordered, reverse=True)
        and sorted(got) == tokens
        and got[result.token] == result.logprob
        and np.allclose([got[t] for t in tokens], np.log(probabilities[tokens]), atol=2e-4)
    )


def reading_of(result, row, params, position, mean):
    """Return the probabilities before adaptive-p in the reading that a draw follows, or None."""
    u = reference.coin(params.seed, 0, position)
    xtc_coin = reference.coin(params.seed, 0, position, reference.XTC)
    for slack in reference.readings(params):
        before = reference.kept(row, params, xtc_coin, slack=slack)
        after = reference.adapted(before, mean, params)
        if equals(result, after) and result.token in reference.drawn_by(after, u):
            return before
    return None


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_draws_follow_the_definition(data):
    row = data.draw(rows())
    params = data.draw(adaptive_params(len(row)))
    expected = reference.adjusted(row, params)
    if expected.max() == -np.inf:
        return
    sampler = Sampler(len(row), params, isa=data.draw(st.sampled_from(ISAS)))
    mean = float(np.float32(params.adaptive_target))
    for position in range(4):
        result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
        before = reading_of(result, expected, params, position, mean)
        assert before is not None
        mean = reference.next_mean(mean, before[result.token], params)


def candidates(row):
    array = (llama.llama_token_data * len(row))()
    for token, logit in enumerate(row):
        array[token] = llama.llama_token_data(token, float(logit), 0.0)
    return llama.llama_token_data_array(array, len(row), -1, False), array


def through(sampler, row):
    """Return token -> probability after a sampler of llama.cpp, and the token that it drew."""
    array, _alive = candidates(row)
    llama.llama_sampler_apply(sampler, ctypes.byref(array))
    logits = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    best = max(logits.values())
    total = sum(math.exp(logit - best) for logit in logits.values())
    drawn = array.data[array.selected].id
    return {token: math.exp(logit - best) / total for token, logit in logits.items()}, drawn


def distribution(result):
    return {token: math.exp(logprob) for token, logprob in result.top_logprobs}


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_as_llama_cpp(target, decay):
    """Two steps of both; the first samples the same token, so that both means move equally."""
    row = np.random.default_rng(5).normal(0, 2, 40).astype(np.float32)
    theirs = llama.llama_sampler_init_adaptive_p(target, decay, 7)
    try:
        first, drawn = through(theirs, row)
        llama.llama_sampler_accept(theirs, drawn)
        second, _ = through(theirs, row)
    finally:
        llama.llama_sampler_free(theirs)
    for seed in range(1000):
        params = SamplingParams(seed=seed, adaptive_target=target, adaptive_decay=decay)
        sampler = Sampler(len(row), params)
        result = sampler.sample(row, top_logprobs=40, post_sampling=True)
        if result.token == drawn:
            break
    assert result.token == drawn
    assert distribution(result) == pytest.approx(first, rel=NEAR)
    result = sampler.sample(row, top_logprobs=40, post_sampling=True)
    assert distribution(result) == pytest.approx(second, rel=NEAR)


@pytest.mark.parametrize("target", [0.2, 0.3, 0.5])
def test_the_probability_of_drawn_tokens_approaches_its_target(target):
    row = np.log([0.6, 0.3, 0.06, 0.03, 0.01]).astype(np.float32)
    p = np.exp(row.astype(np.float64))
    sampler = Sampler(5, SamplingParams(seed=3, adaptive_target=target))
    drawn = [p[sampler.sample(row)] for _ in range(600)]
    assert np.mean(drawn) == pytest.approx(target, abs=0.05)


def test_cases_in_which_adaptive_p_has_no_effect():
    row = np.random.default_rng(1).normal(0, 2, 300).astype(np.float32)
    for fields in ({"temperature": 0.0}, {"mirostat": 2}, {"top_k": 1}):
        with_it = Sampler(300, SamplingParams(seed=4, adaptive_target=0.5, **fields))
        without = Sampler(300, SamplingParams(seed=4, **fields))
        for _ in range(5):
            assert with_it.sample(row, 5, post_sampling=True) == without.sample(
                row, 5, post_sampling=True
            )


def test_a_failed_draw_does_not_change_the_mean():
    row = np.random.default_rng(2).normal(0, 2, 300).astype(np.float32)
    broken = row.copy()
    broken[7] = math.nan
    one, other = (Sampler(300, SamplingParams(seed=4, adaptive_target=0.1)) for _ in range(2))
    one.sample(row)
    other.sample(row)
    with pytest.raises(SamplingError):
        other.sample(broken)
    assert one.sample(row, 9, post_sampling=True) == other.sample(row, 9, post_sampling=True)
