"""Common prefixes, and the order in which room is given up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.prefix import IdleSlots, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=30).map(lambda ids: np.array(ids, dtype=np.int32))


@given(TOKENS, TOKENS)
def test_common_prefix(a: np.ndarray, b: np.ndarray) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == expected


def held(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def test_empty_slots_go_first_then_the_oldest() -> None:
    idle = IdleSlots(3)
    assert idle.oldest() == 0
    assert idle.take(0).size == 0
    idle.put(0, held(1))
    assert idle.oldest() == 1
    idle.take(1)
    idle.put(1, held())
    assert idle.oldest() == 1
    assert idle.oldest(but=(1,)) == 2
    for slot in (2, 1):
        idle.take(slot)
        idle.put(slot, held(slot))
    assert idle.oldest() == 0
    assert idle.oldest(but=(0,)) == 2
    assert len(idle) == 3


def test_clear_tells_what_was_held() -> None:
    idle = IdleSlots(2)
    idle.take(1)
    idle.put(1, held(5))
    assert idle.clear() == [1]
    assert idle.clear() == []
    assert all(len(tokens) == 0 for _, tokens in idle)


def test_none_is_left() -> None:
    idle = IdleSlots(1)
    assert idle.oldest(but=(0,)) is None
    idle.take(0)
    assert idle.oldest() is None
    assert 0 not in idle
