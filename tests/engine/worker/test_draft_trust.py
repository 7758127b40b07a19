"""How far proposed tokens are trusted, compared with the sums that define it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.worker.drafts.lookup import _KINDS, _RESUMED
from offgrid.engine.worker.drafts.prediction import FOUND, KIND
from offgrid.engine.worker.drafts.trust import _PRIORS, Acceptance, Trust

COUNTS = st.floats(0.02, 200)


@given(right=COUNTS, wrong=COUNTS, count=st.integers(0, 63))
def test_the_expectation_is_that_of_a_beta_distribution(
    right: float, wrong: float, count: int
) -> None:
    trust = Trust(right, wrong)
    probability, total = 1.0, 1.0
    for place in range(count):
        probability *= (right + place) / (right + wrong + place)
        total += probability
    assert trust.all_right(count) == pytest.approx(probability, rel=1e-6, abs=1e-12)
    assert trust.expected(count) == pytest.approx(total, rel=2e-2)
    assert 1.0 <= trust.expected(count) <= count + 1.0 + 1e-6


@given(wrong=st.sampled_from([0.999, 0.9999, 1.0, 1.0001, 1.002]), count=st.integers(1, 63))
def test_nothing_is_special_about_one_wrong_token(wrong: float, count: int) -> None:
    near = Trust(10.0, 0.99).expected(count), Trust(10.0, 1.01).expected(count)
    assert near[1] - 0.1 <= Trust(10.0, wrong).expected(count) <= near[0] + 0.1


def test_what_has_been_right_for_long_is_expected_to_stay_so() -> None:
    """Although the rate is the same."""
    assert Trust(2, 0.1).rate == pytest.approx(Trust(40, 2).rate)
    assert Trust(2, 0.1).expected(63) > 1.3 * Trust(40, 2).expected(63)
    assert Trust(50, 1).expected(63) > 2 * Trust(2, 1).expected(63)


def test_the_acceptance_follows_what_comes() -> None:
    acceptance = Acceptance()
    for _ in range(40):
        acceptance.judge("a", 3, 3)
        acceptance.judge("b", 0, 1)
    assert acceptance.rate("a") > 0.95
    assert acceptance.rate("b") < 0.1
    assert acceptance.rate("c") == 0.5
    acceptance.forget("b")
    assert acceptance.rate("b") == 0.5
    for _ in range(1000):
        acceptance.judge("a", 63, 63)
    assert math.isfinite(acceptance.trust("a").expected(63))
    assert acceptance.trust("a", 1.0).wrong > 0.0


def test_all_kinds_of_drafts_have_a_prior() -> None:
    assert {*_KINDS.values(), _RESUMED, KIND, FOUND, "forced"} == _PRIORS.keys()
