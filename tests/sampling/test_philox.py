"""The random numbers: published test vectors, the second implementation, the layout of the key."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from offgrid.sampling import Sampler, SamplingParams, philox4x32

WORDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    words = tuple(int(word, 16) for word in expected.split())
    assert philox4x32(counter, key) == words
    assert reference.philox4x32(counter, key) == words


@given(st.lists(WORDS, min_size=4, max_size=4), st.lists(WORDS, min_size=2, max_size=2))
def test_equals_the_reference(counter, key):
    assert philox4x32(counter, key) == reference.philox4x32(counter, key)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1, -1])
@pytest.mark.parametrize("choice", [0, 1, 2**32 - 1])
def test_seed_choice_and_position_determine_the_random_number(seed, choice):
    """A draw from a flat row of 1,024 tokens shows the first ten bits of the random number."""
    sampler = Sampler(1024, SamplingParams(seed=seed), choice=choice)
    row = np.zeros(1024, dtype=np.float32)
    for position in range(20):
        assert sampler.position == position
        coin = reference.coin(seed % 2**64, choice, position)
        assert 0 <= coin < 1
        assert sampler.sample(row) == int(coin * 1024)


def test_random_seed_is_reported_and_repeats_the_tokens():
    row = np.linspace(0, 2, 500, dtype=np.float32)
    first, other = Sampler(500), Sampler(500)
    assert first.seed != other.seed
    again = Sampler(500, SamplingParams(seed=first.seed))
    assert [first.sample(row) for _ in range(50)] == [again.sample(row) for _ in range(50)]
