"""DRY, min_tokens, and the limited history, against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sampling_cases import chosen_from, dry_fields, follows, old_fields

from offgrid.sampling import InvalidParameter, Sampler, SamplingError, SamplingParams, sample_rows

FEW = 4
"""Few enough distinct tokens that everything repeats something."""


def lowered(tokens: list[int], n: int = 8, generated: int = 0, **fields) -> dict[int, float]:
    """Return the penalty of each logit, derived from the post-sampling logprobs of a flat row."""
    params = SamplingParams(**{"dry_multiplier": 1.0, "dry_base": 2.0, **fields})
    sampler = Sampler(n, params, prompt_tokens=tokens[: len(tokens) - generated])
    for token in tokens[len(tokens) - generated :]:
        sampler.accept(token)
    result = sampler.sample(np.zeros(n, np.float32), top_logprobs=n, post_sampling=True)
    best = result.top_logprobs[0][1]
    return {token: best - lp for token, lp in result.top_logprobs if best - lp > 1e-6}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_penalty_of_every_token(data):
    compare_penalties(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_the_penalty_of_every_token_at_length(data):
    """The default run covers 100 examples."""
    compare_penalties(data)


def compare_penalties(data):
    tokens = data.draw(st.lists(st.integers(0, FEW - 1), max_size=40))
    strategies = {**dry_fields(FEW), "dry_multiplier": st.sampled_from([0.05, 0.5])}
    params = data.draw(chosen_from(strategies, 5, dry_multiplier=0.25))
    split = data.draw(st.integers(0, len(tokens)))
    sampler = Sampler(FEW + 1, params, prompt_tokens=tokens[:split])
    for token in tokens[split:]:
        sampler.accept(token)
    row = np.zeros(FEW + 1, np.float32)
    expected = reference.adjusted(row, params, tokens[:split], tokens[split:])
    result = sampler.sample(row, top_logprobs=FEW + 1, post_sampling=True)
    assert follows(result, expected, params, 0, math.inf) is not None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_token_by_token_with_all_penalties(data):
    """The window slides, its memory is compacted, and tokens leave the repetition window."""
    n = data.draw(st.integers(2, 12))
    row = np.round(np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 1, n) * 8) / 8
    row = row.astype(np.float32)
    params = data.draw(chosen_from({**old_fields(n), **dry_fields(n)}, 7))
    prompt = data.draw(st.lists(st.integers(0, n - 1), max_size=10))
    sampler, generated = Sampler(n, params, prompt_tokens=prompt), []
    for position in range(25):
        expected = reference.adjusted(row, params, prompt, generated)
        if expected.max() == -np.inf:
            break
        result = sampler.sample(row, top_logprobs=n, post_sampling=True)
        assert follows(result, expected, params, position, math.inf) is not None
        sampler.accept(result.token)
        generated.append(result.token)


@pytest.mark.parametrize("split", [0, 3, 9])
def test_the_example_of_the_author_of_dry(split):
    """a b c c b c y a b c: "abc" was followed by c, "c" by b, and "bc" by y."""
    a, b, c, y = range(4)
    tokens = [a, b, c, c, b, c, y, a, b, c]
    assert lowered(tokens, generated=split) == pytest.approx({c: 2.0, y: 1.0}, rel=1e-5)
    one = lowered(tokens, generated=split, dry_allowed_length=1)
    assert one == pytest.approx({c: 4.0, y: 2.0, b: 1.0}, rel=1e-5)


def test_breakers_end_a_repetition():
    text = [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert lowered(text) == pytest.approx({4: 4.0}, rel=1e-5)
    assert lowered(text, dry_breakers=[[1]]) == pytest.approx({4: 1.0}, rel=1e-5)
    assert lowered(text, dry_breakers=[[2]]) == {}
    assert lowered(text, dry_breakers=[[4]]) == {}, "a breaker by itself costs nothing"
    assert lowered(text, dry_breakers=[[4, 7]]) == pytest.approx({4: 4.0}, rel=1e-5)


def test_breakers_of_several_tokens_count_whole_only():
    text = [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert lowered(text, dry_breakers=[[0, 1]]) == pytest.approx({4: 1.0}, rel=1e-5)
    assert lowered(text, dry_breakers=[[0, 1, 2]]) == {}
    assert lowered(text, dry_breakers=[[0, 1], [0, 1, 2]]) == {}, "the longest counts"
    assert lowered(text, dry_breakers=[[0, 2]]) == pytest.approx({4: 4.0}, rel=1e-5)
    assert lowered(text, dry_breakers=[[3, 4]]) == pytest.approx({4: 4.0}, rel=1e-5)


def test_a_limit_does_not_shorten_later_matches():
    """The repetition 1 1 after the breaker occurs completely at every earlier place."""
    text = [1, 1, 1, 5, 1, 1, 6, 0, 1, 1]
    assert lowered(text, dry_breakers=[[0]]) == pytest.approx({1: 1.0, 5: 1.0, 6: 1.0}, rel=1e-5)


@pytest.mark.parametrize(("last_n", "expected"), [(-1, {4: 4.0}), (9, {4: 4.0}), (7, {4: 1.0})])
def test_only_the_last_n_are_searched(last_n, expected):
    text = [0, 1, 2, 3, 4, 0, 1, 2, 3]
    for generated in (0, 4, 9):
        found = lowered(text, generated=generated, dry_penalty_last_n=last_n)
        assert found == pytest.approx(expected, rel=1e-5)
    assert lowered(text, dry_penalty_last_n=5) == {}
    assert lowered(text, dry_penalty_last_n=0) == {}


def test_a_penalty_beyond_float32_ends_at_its_largest_number():
    sampler = Sampler(2, SamplingParams(dry_multiplier=1, dry_base=100), prompt_tokens=[0] * 500)
    row = np.zeros(2, np.float32)
    assert sampler.sample(row, top_logprobs=2, post_sampling=True) == (1, 0.0, ((1, 0.0),))
    assert sampler.sample(np.array([0, -np.inf], np.float32)) == 0, "lowered, but not banned"


@pytest.mark.parametrize("last_n", [-1, 9000])
@pytest.mark.parametrize("generated", [0, 8000])
def test_long_histories_grow(last_n, generated):
    """More tokens than the initial capacity: the repetition at both ends is found."""
    n = 9000
    tokens = [7, 8, 9, *range(10, n - 3), 7, 8, 9]
    row = np.where(np.arange(n) < 12, 0, -np.inf).astype(np.float32)
    params = SamplingParams(dry_multiplier=1.0, dry_base=2.0, dry_penalty_last_n=last_n)
    sampler = Sampler(n, params, prompt_tokens=tokens[: len(tokens) - generated])
    for token in tokens[len(tokens) - generated :]:
        sampler.accept(token)
    best = sampler.sample(row, top_logprobs=12, post_sampling=True).top_logprobs
    assert best[-1][0] == 10
    assert best[0][1] - best[-1][1] == pytest.approx(2.0, rel=1e-5)


def test_dry_acts_on_greedy_draws_and_ids_are_checked():
    row = np.array([1.0, 0.0], np.float32)
    sampler = Sampler(2, SamplingParams(temperature=0, dry_multiplier=2.0), [0, 0, 0])
    assert sampler.sample(row) == 1
    with pytest.raises(InvalidParameter) as error:
        Sampler(4, SamplingParams(dry_multiplier=1.0), prompt_tokens=[4])
    assert error.value.param == "prompt_tokens"


# --- min_tokens -------------------------------------------------------------------------------


@given(
    minimum=st.integers(0, 6),
    bias=st.sampled_from([None, 1.5, -1.5, False, 0.0]),
    fields=st.sampled_from([{}, {"frequency_penalty": 0.5}, {"dry_multiplier": 1.0}]),
)
@example(minimum=3, bias=1.5, fields={"repetition_penalty": 1.3, "repeat_last_n": 1})
@settings(max_examples=60, deadline=None)
def test_end_tokens_wait_for_min_tokens(minimum, bias, fields):
    """After min_tokens they have their bias again."""
    row = np.array([2.0, 1.0, 0.5, 0.25], np.float32)
    if bias is not None:
        fields = {**fields, "logit_bias": {0: bias, 2: 0.5}}
    params = SamplingParams(seed=3, min_tokens=minimum, **fields)
    sampler, generated = Sampler(4, params, end_tokens=[0, 3, 0]), []
    for position in range(9):
        result = sampler.sample(row, top_logprobs=4, post_sampling=True)
        expected = reference.adjusted(row, params, (), generated, None, (0, 3))
        assert follows(result, expected, params, position, math.inf) is not None
        assert (position >= minimum) or result.token not in (0, 3)
        sampler.accept(result.token)
        generated.append(result.token)


def test_end_tokens_alone_leave_no_candidate():
    row = np.array([1.0, -np.inf], np.float32)
    sampler = Sampler(2, SamplingParams(min_tokens=1), end_tokens=[0])
    with pytest.raises(SamplingError, match="no token"):
        sampler.sample(row)
    sampler.accept(1)
    assert sampler.sample(row) == 0


def test_banned_end_tokens_stay_banned():
    sampler = Sampler(2, SamplingParams(min_tokens=1), banned=[0], end_tokens=[0])
    sampler.accept(1)
    assert {sampler.sample(np.zeros(2, np.float32)) for _ in range(40)} == {1}


def test_min_tokens_in_a_batch_counts_accepted_tokens_only():
    row = np.array([5.0, 0.0], np.float32)
    sampler = Sampler(2, SamplingParams(temperature=0, min_tokens=2), end_tokens=[0])
    drawn = [
        sample_rows([row.ctypes.data], [sampler], accept=accept)[0].token
        for accept in (False, True, False, True, True)
    ]
    assert drawn == [1, 1, 1, 1, 0]


# --- the limited history -----------------------------------------------------------------------


@pytest.mark.parametrize("last_n", [1, 2, 7, 64])
@pytest.mark.parametrize("presence", [0.0, 0.5])
def test_long_runs_through_a_small_window(last_n, presence):
    """500 tokens of a vocabulary of 40: each enters and leaves the window many times."""
    row = (np.arange(40) % 7 / 4).astype(np.float32)
    params = SamplingParams(
        seed=5, repetition_penalty=1.5, repeat_last_n=last_n, presence_penalty=presence
    )
    sampler, generated = Sampler(40, params, prompt_tokens=[1, 2, 3] * 30), []
    for position in range(500):
        expected = reference.adjusted(row, params, [1, 2, 3] * 30, generated)
        u = reference.coin(5, 0, position)
        token = sampler.sample(row)
        assert token in reference.drawable(expected, params, u)
        sampler.accept(token)
        generated.append(token)
