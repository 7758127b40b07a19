"""Logprobs of given tokens against log-softmax in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from reference_logits import log_softmax

from offgrid.sampling import InvalidParameter, Sampler, SamplingError, SamplingParams, score_rows

FLOATS = st.one_of(
    st.floats(-100, 100, width=32), st.just(-np.inf), st.sampled_from([0.0, -1.0, 5.0])
)


@given(
    data=st.data(),
    n=st.sampled_from([1, 2, 17, 511, 512, 1300]),
    n_top=st.integers(0, 7),
)
def test_against_the_definition(data: st.DataObject, n: int, n_top: int) -> None:
    rows = data.draw(arrays.arrays(np.float32, (2, n), elements=FLOATS, fill=st.just(0.5)))
    rows[:, data.draw(st.integers(0, n - 1))] = 3.0  # at least one token is possible
    tokens = [data.draw(st.integers(0, n - 1)) for _ in rows]
    scores = score_rows(Sampler(n), [row.ctypes.data for row in rows], tokens, n_top)
    for row, token, score, expected in zip(rows, tokens, scores, log_softmax(rows), strict=True):
        assert score.token == token
        assert score.rank == 1 + int((row > row[token]).sum())
        order = np.lexsort((np.arange(n), -row))[: min(n, n_top)]
        assert [top for top, _ in score.top_logprobs] == order.tolist()
        for id, logprob in [(token, score.logprob), *score.top_logprobs]:
            assert logprob == pytest.approx(expected[id], abs=1e-5, rel=1e-6)
        # The identical number: callers compare both to find out whether the token was likeliest.
        assert all(logprob == score.logprob for id, logprob in score.top_logprobs if id == token)


def test_scoring_does_not_change_the_sampler() -> None:
    row = np.random.default_rng(1).normal(0, 3, 3000).astype(np.float32)
    params = SamplingParams(temperature=1.0, top_p=0.9, frequency_penalty=0.5, seed=5)
    plain, scoring = Sampler(3000, params), Sampler(3000, params)
    for _ in range(20):
        expected = plain.sample(row)
        plain.accept(expected)
        score_rows(scoring, [row.ctypes.data], [expected], 3)
        assert scoring.sample(row) == expected
        scoring.accept(expected)


@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "nan_logits"), (np.inf, "infinite_logits"), (-np.inf, "no_candidate")],
)
def test_useless_rows(value: float, code: str) -> None:
    good = np.zeros(600, dtype=np.float32)
    bad = good.copy() if value != -np.inf else np.full(600, value, dtype=np.float32)
    bad[500] = value
    with pytest.raises(SamplingError) as error:
        score_rows(Sampler(600), [good.ctypes.data, bad.ctypes.data], [1, 2])
    assert error.value.code == code


def test_arguments_that_are_refused() -> None:
    row = np.zeros(8, dtype=np.float32)
    sampler = Sampler(8)
    for addresses, tokens in ([row.ctypes.data], []), ([0], [1]):
        with pytest.raises(ValueError, match=r"token|NULL"):
            score_rows(sampler, addresses, tokens)
    for token in (-1, 8):
        with pytest.raises(InvalidParameter):
            score_rows(sampler, [row.ctypes.data], [token])
    with pytest.raises(InvalidParameter, match="top_logprobs"):
        score_rows(sampler, [row.ctypes.data], [1], -1)
    assert score_rows(sampler, [row.ctypes.data], [1])[0].logprob == pytest.approx(-np.log(8))
