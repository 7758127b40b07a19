"""A sampler that has gone back is one that has never gone on, but for its random numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.errors import InvalidParameter
from offgrid.sampling import Sampler, SamplingParams, philox4x32

N_VOCAB = 40
ENDS = (3, 7)

params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    repeat_last_n=st.sampled_from([-1, 0, 1, 3, 64]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    dry_allowed_length=st.sampled_from([0, 2]),
    dry_penalty_last_n=st.sampled_from([-1, 1, 4]),
    dry_breakers=st.sampled_from([(), ((5,), (6, 2))]),
    mirostat=st.sampled_from([0, 1, 2]),
    adaptive_target=st.sampled_from([-1.0, 0.4]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    min_tokens=st.sampled_from([0, 3, 9]),
    logit_bias=st.sampled_from([None, {3: 2.0, 4: -1.0, 39: 1.5}]),
    seed=st.integers(0, 100),
)


def rows(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, N_VOCAB), dtype=np.float32) * 2


def advance(sampler: Sampler, row: Any) -> int:
    token = sampler.sample(row)
    sampler.accept(token)
    return token


@settings(max_examples=150, deadline=None)
@given(
    params=params,
    prompt=st.lists(st.integers(0, N_VOCAB - 1), max_size=30),
    seed=st.integers(0, 1000),
    kept=st.integers(0, 12),
    discarded=st.integers(0, 40),
)
def test_what_is_taken_back_leaves_no_trace(
    params: SamplingParams, prompt: list[int], seed: int, kept: int, discarded: int
) -> None:
    """Draws are greedy after the rewind, so that the random numbers do not matter; the states of
    mirostat and adaptive-p are compared too."""
    logits = rows(seed, kept + discarded + 8)
    sampler = Sampler(N_VOCAB, params, prompt, end_tokens=ENDS)
    tokens = [advance(sampler, row) for row in logits[:kept]]
    state = sampler.state
    for row in logits[kept : kept + discarded]:
        advance(sampler, row)
    sampler.rewind(state, prompt, tokens)

    straight = Sampler(N_VOCAB, params, prompt, end_tokens=ENDS)
    assert [advance(straight, row) for row in logits[:kept]] == tokens
    assert sampler.state == straight.state == state
    for row in logits[kept + discarded :]:
        # Exactly the same distribution: the probabilities after all penalties.
        one = sampler.sample(row, 20, post_sampling=True)
        other = straight.sample(row, 20, post_sampling=True)
        if params.xtc_probability == 0.0 and params.adaptive_target < 0.0:
            assert one.top_logprobs == other.top_logprobs
        if params.temperature == 0.0:
            assert one.token == other.token
        sampler.accept(one.token)
        straight.rewind(sampler.state, prompt, [*tokens, one.token])
        tokens.append(one.token)


def test_each_rewind_begins_new_random_numbers() -> None:
    """The header defines them: the stream's number grows by two with each rewind."""
    sampler = Sampler(1000, SamplingParams(temperature=1.0, top_p=1.0, seed=5), choice=2)
    row = np.zeros(1000, dtype=np.float32)
    for rewinds in range(5):
        words = philox4x32((1, 0, 2, 2 * rewinds), (5, 0))
        uniform = (((words[0] << 32) | words[1]) >> 11) * 2.0**-53
        sampler.accept(sampler.sample(row))
        state = sampler.state
        assert state[0] == 1
        assert sampler.sample(row) == pytest.approx(uniform * 1000, abs=1)
        sampler.rewind((0, state[1], state[2]), [], [])


def test_tokens_outside_the_vocabulary_are_refused_and_leave_a_usable_sampler() -> None:
    sampler = Sampler(N_VOCAB, SamplingParams(frequency_penalty=1.0, seed=1))
    with pytest.raises(InvalidParameter):
        sampler.rewind(sampler.state, [], [N_VOCAB])
    sampler.rewind(sampler.state, [], [1, 2])
    assert sampler.sample(rows(1, 1)[0]) in range(N_VOCAB)


def test_a_sampler_of_images_may_leave_out_positions() -> None:
    prompt = np.array([4, 5, 6], dtype=np.int32)
    given = SamplingParams(repetition_penalty=1.5, temperature=0.0)
    sampler = Sampler(N_VOCAB, given, prompt)
    row = np.full(N_VOCAB, 1.0, dtype=np.float32)
    row[5] = 1.2
    assert sampler.sample(row) == 0
    sampler.rewind(sampler.state, prompt, [])
    assert sampler.sample(row) == 0
    assert dataclasses.replace(given) == sampler.params
