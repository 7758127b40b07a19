"""Distributions of the whole vocabulary, tokens drawn elsewhere, and many draws from one row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from sampling_cases import ISAS, chosen_from, dry_fields, old_fields, rows, truncation_fields
from variants import examples, few

from offgrid.errors import InvalidParameter
from offgrid.sampling import (
    Distribution,
    Sampler,
    SamplingError,
    SamplingParams,
    distribution,
    draws,
    follow,
)


def numbers(found: Distribution) -> np.ndarray:
    return np.frombuffer(found.tobytes())


def all_params(n: int):
    return chosen_from(
        {
            **old_fields(n),
            **truncation_fields(),
            **dry_fields(n),
            "mirostat": st.sampled_from([1, 2]),
            "mirostat_tau": st.sampled_from([1.0, 5.0]),
            "adaptive_target": st.sampled_from([0.1, 0.7]),
            "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        },
        5,
    )


def check_distribution(data):
    row = data.draw(rows())
    params = data.draw(all_params(len(row)))
    ids = st.lists(st.integers(0, len(row) - 1), max_size=12)
    sampler = Sampler(len(row), params, prompt_tokens=data.draw(ids), isa=data.draw(
        st.sampled_from(ISAS)
    ))  # fmt: skip
    for token in data.draw(ids):
        sampler.accept(token)
    for _ in range(3):
        before = sampler.state
        try:
            found = distribution(sampler, row)
        except SamplingError:
            with pytest.raises(SamplingError, match="no token"):
                sampler.sample(row)
            return
        assert sampler.state == before
        result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
        assert found.total == pytest.approx(1, abs=1e-6)
        assert found.kept == len(result.top_logprobs)
        assert found.kept == np.count_nonzero(numbers(found))
        for token, logprob in result.top_logprobs:
            assert found[token] == pytest.approx(math.exp(logprob), rel=1e-5, abs=1e-35)
        assert [token for token, _ in found.top(5)] == [t for t, _ in result.top_logprobs[:5]]


@pytest.mark.parametrize("n", few(1, [40, 150]))
def test_a_distribution_is_the_one_that_the_next_draw_uses(n):
    examples(n, check_distribution, st.data())


def check_following(data):
    row = data.draw(rows(min_size=2))
    params = data.draw(all_params(len(row)))
    first, second = Sampler(len(row), params), Sampler(len(row), params)
    for _ in range(5):
        try:
            token = first.sample(row)
        except SamplingError:
            return
        first.accept(token)
        follow(second, row, token)
        assert second.state == first.state
        try:
            found = numbers(distribution(second, row))
        except SamplingError:
            continue
        assert (found == numbers(distribution(first, row))).all()


@pytest.mark.parametrize("n", few(1, [30, 100]))
def test_a_sampler_that_follows_is_one_that_has_drawn(n):
    examples(n, check_following, st.data())


def check_draws(data):
    row = data.draw(rows())
    params = data.draw(all_params(len(row)))
    sampler = Sampler(len(row), params)
    try:
        tokens = draws(sampler, row, 20)
    except SamplingError:
        return
    assert sampler.state == Sampler(len(row), params).state
    for offset, token in enumerate(tokens):
        fresh = Sampler(len(row), params)
        _, *rest = fresh.state
        fresh.state = (offset, *rest)
        assert fresh.sample(row) == token


@pytest.mark.parametrize("n", few(1, [20, 60]))
def test_draws_are_those_of_later_positions(n):
    examples(n, check_draws, st.data())


def test_a_token_that_cannot_be_drawn_moves_the_position_only():
    row = np.array([3.0, 2.0, 1.0, 0.0], np.float32)
    for params in (
        SamplingParams(mirostat=2, mirostat_tau=0.1),
        SamplingParams(adaptive_target=0.5, top_k=1),
        SamplingParams(mirostat=1, temperature=0),
    ):
        sampler = Sampler(4, params)
        before = sampler.state
        follow(sampler, row, 3)
        assert sampler.state == (1, *before[1:])


def test_a_followed_token_counts_as_generated():
    row = np.zeros(4, np.float32)
    sampler = Sampler(4, SamplingParams(presence_penalty=2.0))
    follow(sampler, row, 2)
    found = distribution(sampler, row)
    assert found[2] == pytest.approx(math.exp(-2) / (3 + math.exp(-2)), rel=1e-6)


def test_entropy_and_temperature():
    row = np.log(np.array([8, 4, 2, 1, 1], np.float32))
    found = distribution(Sampler(5, SamplingParams()), row)
    assert found.entropy == pytest.approx(1.875, abs=1e-6)
    assert (found.temperature, found.kept) == (1.0, 5)
    cold = distribution(Sampler(5, SamplingParams(temperature=0)), row)
    assert (cold.temperature, cold.kept, cold.entropy, cold[0]) == (0.0, 1, 0.0, 1.0)
    params = SamplingParams(temperature=0.7, dynatemp_range=0.5)
    moved = distribution(Sampler(5, params), row)
    assert moved.temperature == pytest.approx(reference.temperature_of(row, params), rel=1e-5)


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=40).filter(any),
    n=st.integers(0, 45),
)
def test_the_best_come_first_and_ties_by_id(weights, n):
    with np.errstate(divide="ignore"):
        row = np.log(np.array(weights, np.float32))
    found = distribution(Sampler(len(row), SamplingParams()), row)
    order = sorted(range(len(row)), key=lambda token: (-found[token], token))
    expected = [(token, found[token]) for token in order if found[token] > 0]
    assert found.top(n) == expected[:n]


def test_what_a_step_removes_and_mixtures():
    row = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    before = distribution(Sampler(4, SamplingParams()), row)
    after = distribution(Sampler(4, SamplingParams(top_k=2)), row)
    gone = before.lost(after)
    assert (gone.kept, gone.total) == (2, pytest.approx(0.25, abs=1e-6))
    assert gone.top(9) == [(2, before[2]), (3, before[3])]
    assert gone.entropy == pytest.approx(1.0, abs=1e-6)
    half = before.mixed(after, 0.5)
    assert half[0] == pytest.approx(0.5 * 0.5 + 0.5 * 2 / 3, abs=1e-6)
    assert (half.kept, half.total) == (4, pytest.approx(1.0, abs=1e-6))
    nothing = before.lost(before)
    assert (nothing.kept, nothing.total, nothing.entropy, nothing.top(3)) == (0, 0.0, 0.0, [])


def test_wrong_arguments():
    row = np.zeros(4, np.float32)
    sampler = Sampler(4, SamplingParams())
    with pytest.raises(ValueError, match="expected 4 logits, got 5"):
        distribution(sampler, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="address is NULL"):
        draws(sampler, 0, 1)
    small = distribution(Sampler(3, SamplingParams()), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="different vocabularies"):
        distribution(sampler, row).lost(small)
    with pytest.raises(InvalidParameter):
        follow(sampler, row, 4)
    with pytest.raises(InvalidParameter):
        distribution(sampler, row)[-1]
    with pytest.raises(TypeError, match="makes distributions"):
        Distribution()
    for bad, code in ((math.nan, "nan_logits"), (math.inf, "infinite_logits")):
        broken = row.copy()
        broken[1] = bad
        before = sampler.state
        for call in (lambda r: distribution(sampler, r), lambda r: draws(sampler, r, 3),
                     lambda r: follow(sampler, r, 0)):  # fmt: skip
            with pytest.raises(SamplingError) as caught:
                call(broken)
            assert caught.value.code == code
            assert sampler.state == before
    assert sampler.sample(row) in range(4)  # it is still usable


def test_an_address_works_as_well_as_a_buffer():
    row = np.arange(6, dtype=np.float32)
    sampler = Sampler(6, SamplingParams(seed=3))
    address = row.ctypes.data
    assert (numbers(distribution(sampler, address)) == numbers(distribution(sampler, row))).all()
    assert draws(sampler, address, 9) == draws(sampler, row, 9)
    assert draws(sampler, row, 0) == []
