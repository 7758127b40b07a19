"""Temperature and truncation against the reference: the kept tokens and their probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import (
    ISAS,
    chosen_from,
    dry_fields,
    follows,
    old_fields,
    rows,
    truncation_fields,
    words_of,
)

from offgrid.sampling import Sampler, SamplingError, SamplingParams, sample_rows

SINGLES = [
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"top_n_sigma": 1.0},
    {"typical_p": 0.5},
    {"typical_p": 0.0},
    {"xtc_probability": 1.0, "xtc_threshold": 0.0, "temperature": 1.3},
    {"xtc_probability": 0.6, "xtc_threshold": 0.05},
    {"p_less": True},
    {"p_less": True, "temperature": 1.3, "min_keep": 3},
    {"dynatemp_range": 0.5},
    {"dynatemp_range": 1.5, "dynatemp_exponent": 0.7},
]
"""Every kind of truncation alone."""


def kept_by(row, params, **arguments) -> list[int]:
    """Return the kept tokens, ascending."""
    row = np.asarray(row, dtype=np.float32)
    result = Sampler(len(row), params).sample(
        row, top_logprobs=1024, post_sampling=True, **arguments
    )
    return sorted(token for token, _ in result.top_logprobs)


@pytest.mark.parametrize("fields", SINGLES, ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_alone(fields, data):
    row = data.draw(rows(max_size=200))
    params = SamplingParams(seed=data.draw(st.integers(0, 2**64 - 1)), **fields)
    sampler = Sampler(len(row), params)
    for position in range(2):
        result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
        assert follows(result, row, params, position, math.inf) is not None


def any_at_once(data):
    """Any combination of the parameters, after a mask, with every instruction set."""
    row = data.draw(rows())
    n, ids = len(row), st.lists(st.integers(0, len(row) - 1), max_size=8)
    strategies = {**old_fields(n), **truncation_fields(), **dry_fields(n)}
    strategies["min_tokens"] = st.integers(0, 10)
    params = data.draw(chosen_from(strategies, 8))
    prompt, generated, ends = data.draw(ids), data.draw(ids), data.draw(ids)
    allowed = data.draw(st.one_of(st.none(), st.sets(st.integers(0, n - 1), min_size=n // 2)))
    isa = data.draw(st.sampled_from(ISAS))
    sampler = Sampler(n, params, prompt_tokens=prompt, end_tokens=ends, isa=isa)
    for token in generated:
        sampler.accept(token)
    mask = None if allowed is None else words_of(allowed, n)
    before = row.copy()
    expected = reference.adjusted(row, params, prompt, generated, allowed, ends)
    if expected.max() == -np.inf:
        with pytest.raises(SamplingError, match="no token"):
            sampler.sample(row, mask=mask)
        return
    for position in range(2):
        result = sampler.sample(row, top_logprobs=1024, mask=mask, post_sampling=True)
        assert follows(result, expected, params, position, math.inf) is not None
    assert np.array_equal(row, before), "the caller's row was written to"


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_all_together(data):
    any_at_once(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_all_together_at_length(data):
    """The default run covers 50 examples."""
    any_at_once(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_longer_rows(data):
    """Rows longer than a block of 512, so that block maxima and samples of the row are used."""
    n = data.draw(st.sampled_from([511, 512, 513, 1023, 1025, 2000, 2999, 3000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = data.draw(st.sampled_from([0.0, 0.3, 1.0, 4.0]))
    row = (np.round(rng.normal(0, scale, n) * 8) / 8).astype(np.float32)
    params = data.draw(chosen_from({**old_fields(n), **truncation_fields()}, 4))
    expected = reference.adjusted(row, params)
    sampler = Sampler(n, params, isa=data.draw(st.sampled_from(ISAS)))
    result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
    assert follows(result, expected, params, 0, math.inf) is not None


# --- examples of the definitions --------------------------------------------------------------


def test_top_n_sigma_counts_only_possible_tokens():
    """-infinity is not part of the standard deviation: {4, 2, 0} has sqrt(8/3) = 1.63."""
    row = [4.0, -math.inf, 2.0, 0.0, -math.inf]
    assert kept_by(row, SamplingParams(top_n_sigma=1.0)) == [0]
    assert kept_by(row, SamplingParams(top_n_sigma=1.3)) == [0, 2]
    assert kept_by(row, SamplingParams(top_n_sigma=2.5)) == [0, 2, 3]
    assert kept_by([1.0] * 7, SamplingParams(top_n_sigma=0.1)) == list(range(7))


@pytest.mark.parametrize(
    ("p", "expected"), [(0.2, [0]), (0.3, [0, 1]), (0.49, [0, 1]), (0.6, [0, 1, 2])]
)
def test_typical_p_takes_equally_far_tokens_in_order_of_id(p, expected):
    """Probabilities 1/4, 1/4, 1/2: all are half a bit from the entropy of 1.5 bits."""
    assert kept_by([0.0, 0.0, math.log(2)], SamplingParams(typical_p=p)) == expected


def test_typical_p_may_drop_the_most_likely():
    row = np.log([0.4] + [0.05] * 12)
    assert kept_by(row, SamplingParams(typical_p=0.42)) == list(range(1, 10))


def test_min_p_compares_with_the_most_likely_token_left():
    """After typical_p, which has dropped the token with 0.4."""
    row = np.log([0.4] + [0.05] * 11 + [0.04, 0.01])
    kept = kept_by(row, SamplingParams(typical_p=0.58))
    assert kept == [*range(1, 13)]
    assert kept_by(row, SamplingParams(typical_p=0.58, min_p=0.5)) == kept
    assert kept_by(row, SamplingParams(typical_p=0.58, min_p=0.9)) == kept[:-1]


def test_xtc_keeps_the_least_likely_token_above_the_threshold():
    row = np.log([0.1, 0.4, 0.25, 0.2, 0.05])
    always = {"xtc_probability": 1.0}
    assert kept_by(row, SamplingParams(xtc_threshold=0.15, **always)) == [0, 3, 4]
    assert kept_by(row, SamplingParams(xtc_threshold=0.3, **always)) == [0, 1, 2, 3, 4]
    assert kept_by(row, SamplingParams(xtc_threshold=0.0, **always)) == [4]
    assert kept_by(row, SamplingParams(xtc_threshold=0.51, **always)) == [0, 1, 2, 3, 4]
    # Of equally likely tokens the one with the highest id is last.
    assert kept_by([0.0] * 4, SamplingParams(xtc_threshold=0.25, **always)) == [3]


def test_xtc_has_a_separate_random_number_at_every_position():
    row = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    sampler = Sampler(3, SamplingParams(seed=21, xtc_probability=0.4, xtc_threshold=0.25))
    for position in range(60):
        result = sampler.sample(row, top_logprobs=3, post_sampling=True)
        fires = reference.coin(21, 0, position, reference.XTC) < np.float32(0.4)
        assert len(result.top_logprobs) == (2 if fires else 3)


def test_dynamic_temperature_between_its_limits():
    """A flat row gets the highest temperature, a row with one certain token the lowest."""
    params = SamplingParams(temperature=1.0, dynatemp_range=0.5)
    flat = Sampler(4, params).sample(np.zeros(4, np.float32), top_logprobs=4, post_sampling=True)
    assert flat.logprob == pytest.approx(math.log(1 / 4), abs=1e-6)
    row = np.array([100.0, 70.0], np.float32)
    certain = Sampler(2, params).sample(row, top_logprobs=2, post_sampling=True)
    assert certain.top_logprobs[1][1] == pytest.approx(-60.0, rel=1e-4)


def test_dynamic_temperature_that_reaches_zero_is_greedy():
    """With entropy 0 and lower limit 0: the most likely token, ties by lowest id."""
    row = np.array([-300.0, 300.0, -300.0], np.float32)
    params = SamplingParams(temperature=0.5, dynatemp_range=0.5)
    assert kept_by(row, params) == [1]
    assert kept_by([2.0, 2.0, 1.0], SamplingParams(temperature=0, dynatemp_range=0.5)) == [0]


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 6, 99])
@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 1},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"top_n_sigma": 0.01},
        {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "top_n_sigma": 0.01},
    ],
    ids=str,
)
def test_min_keep_of_the_most_likely(fields, keep):
    row = np.array([0.0, 3.0, 1.0, 2.0, 1.0, -1.0, 1.0], np.float32)
    best = [1, 3, 2, 4, 6, 0, 5]
    expected = sorted(best[: max(1, keep)])
    assert kept_by(row, SamplingParams(min_keep=keep, **fields)) == expected


@pytest.mark.parametrize("keep", [2, 33, 700])
@pytest.mark.parametrize(
    "fields", [{"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}, {"top_n_sigma": 0.01}], ids=str
)
def test_min_keep_in_a_long_row(fields, keep):
    """Here the nucleus is a short list, and the k largest come from the block maxima."""
    row = np.random.default_rng(5).permutation(np.linspace(-20, 0, 40_000)).astype(np.float32)
    best = np.argsort(-row, kind="stable")[:keep]
    row[best[0]] = 20.0
    assert kept_by(row, SamplingParams(min_keep=keep, **fields)) == sorted(best)


def test_min_keep_of_the_most_typical():
    row = np.log([0.4] + [0.05] * 12)
    params = SamplingParams(typical_p=0.0, min_keep=4)
    assert kept_by(row, params) == [1, 2, 3, 4]


@pytest.mark.parametrize(("keep", "expected"), [(2, [2, 3]), (3, [0, 1, 2, 3])])
def test_min_keep_stops_xtc(keep, expected):
    row = np.log([0.4, 0.3, 0.2, 0.1])
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=0.15, min_keep=keep)
    assert kept_by(row, params) == expected


# --- post-sampling logprobs -------------------------------------------------------------------


def test_post_sampling_logprobs_of_a_greedy_draw():
    row = np.array([1.0, 3.0, 2.0], np.float32)
    sampler = Sampler(3, SamplingParams(temperature=0))
    result = sampler.sample(row, top_logprobs=3, post_sampling=True)
    assert result == (1, 0.0, ((1, 0.0),))
    assert sampler.sample(row, top_logprobs=0, post_sampling=True) == (1, 0.0, ())


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_logprobs_of_either_kind_do_not_change_the_draw(data):
    row = data.draw(rows())
    n = len(row)
    params = data.draw(chosen_from({**old_fields(n), **truncation_fields()}, 6, min_keep=0))
    try:
        token = Sampler(n, params).sample(row)
    except SamplingError:
        return
    raw = Sampler(n, params).sample(row, top_logprobs=3)
    post = Sampler(n, params).sample(row, top_logprobs=3, post_sampling=True)
    assert raw.token == post.token == token
    assert raw.logprob == pytest.approx(reference.logprobs(row)[token], abs=2e-5, rel=1e-6)
    best = sorted(range(n), key=lambda other: (-row[other], other))[:3]
    assert [other for other, _ in raw.top_logprobs] == best


# --- masks ------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_masks_in_a_batch_are_masks_of_each_row(data):
    batch = data.draw(st.lists(rows(min_size=2, max_size=80), min_size=1, max_size=5))
    masks, params = [], []
    for row in batch:
        n = len(row)
        allowed = st.sets(st.integers(0, n - 1), min_size=1)
        masks.append(data.draw(st.one_of(st.none(), allowed.map(lambda a, n=n: words_of(a, n)))))
        strategies = {**old_fields(n), **truncation_fields(), **dry_fields(n)}
        strategies["mirostat"] = st.sampled_from([1, 2])
        params.append(data.draw(chosen_from(strategies, 6)))
    post = [data.draw(st.booleans()) for _ in batch]
    alone = [Sampler(len(row), p, [0, 1, 0]) for row, p in zip(batch, params, strict=True)]
    together = [Sampler(len(row), p, [0, 1, 0]) for row, p in zip(batch, params, strict=True)]
    for _ in range(3):
        got = sample_rows(
            [row.ctypes.data for row in batch],
            together,
            top_logprobs=[4] * len(batch),
            masks=[None if mask is None else mask.ctypes.data for mask in masks],
            post_sampling=post,
        )
        for row, sampler, mask, kind, result in zip(batch, alone, masks, post, got, strict=True):
            if isinstance(result, SamplingError):
                with pytest.raises(SamplingError, match=str(result)):
                    sampler.sample(row, mask=mask)
                continue
            assert sampler.sample(row, 4, mask, post_sampling=kind) == result
            sampler.accept(result.token)
    assert [s.mu for s in alone] == [s.mu for s in together]


def test_sample_rows_refuses_masks_that_do_not_fit():
    row = np.zeros(4, np.float32)
    for keywords in ({"masks": [0, 0]}, {"post_sampling": [True, False]}):
        with pytest.raises(ValueError, match="every row needs one"):
            sample_rows([row.ctypes.data], [Sampler(4)], **keywords)
