"""Common prefixes, and the order in which slots are evicted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.worker.prefix import MIN_COPY, IdleSlots, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=30).map(lambda ids: np.array(ids, dtype=np.int32))


@given(TOKENS, TOKENS)
def test_common_prefix(a: np.ndarray, b: np.ndarray) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == expected


def held(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def test_empty_slots_are_evicted_first_then_the_oldest() -> None:
    idle = IdleSlots(3)
    assert idle.oldest() == 0
    assert idle.take(0).size == 0
    idle.put(0, held(1))
    assert idle.oldest() == 1
    idle.take(1)
    idle.put(1, held())
    assert idle.oldest() == 1
    idle.reserve([1])
    assert idle.oldest() == 2
    idle.release(1)
    assert idle.empty(but=(1,)) == 2
    for slot in (2, 0, 1):
        idle.take(slot)
        idle.put(slot, held(*range(MIN_COPY + slot)))
    assert idle.empty() is None
    assert idle.oldest() == 2
    idle.reserve([2])
    assert idle.oldest() == 0
    assert len(idle) == 3


def test_a_few_tokens_are_not_worth_keeping() -> None:
    idle = IdleSlots(3)
    for slot, length in ((1, MIN_COPY), (0, MIN_COPY - 1), (2, MIN_COPY)):
        idle.take(slot)
        idle.put(slot, held(*range(100 * slot, 100 * slot + length)))
    assert idle.oldest() == idle.empty() == 0
    assert idle.spare(0)
    idle.reserve([0])
    assert not idle.spare(0)
    assert idle.empty() is None
    assert idle.oldest() == 1


@pytest.mark.parametrize(
    ("n_prompt", "shared", "goes_on"),
    [
        (40, 100, True),  # the next turn
        (40, 40, True),  # the same prompt again
        (40, 36, True),  # the same prompt with a rewritten end
        (40, 35, False),  # another question
        (6, 6, False),  # almost nothing is shared, and a long answer would be lost
        (0, 0, False),
        (100, 99, True),
        (None, 95, False),
    ],
)
def test_which_prompts_continue_a_conversation(
    n_prompt: int | None, shared: int, goes_on: bool
) -> None:
    idle = IdleSlots(1)
    idle.take(0)
    idle.put(0, held(*range(100)), n_prompt)
    assert idle.goes_on(0, shared) == goes_on


def test_a_short_answer_goes_with_its_short_prompt() -> None:
    idle = IdleSlots(1)
    idle.take(0)
    idle.put(0, held(*range(8)), 3)
    assert idle.goes_on(0, 3)
    assert not IdleSlots(1).goes_on(0, 0), "an empty slot"


def test_tokens_held_by_two_slots_are_kept_once() -> None:
    idle = IdleSlots(4)
    for slot, tokens in enumerate(([1, 2, 3], [7, 8], [1, 2], [4])):
        idle.take(slot)
        idle.put(slot, held(*tokens))
    idle.drop_repeated(2)
    assert [(slot, tokens.tolist()) for slot, tokens in idle] == [
        (1, [7, 8]), (2, []), (3, [4]), (0, [1, 2, 3]),
    ]  # fmt: skip
    idle.take(3)
    idle.put(3, held(7, 8, 9))
    idle.drop_repeated(3)
    assert [slot for slot, tokens in idle if len(tokens)] == [0, 3]


def test_moved_tokens_keep_their_age_and_prompt() -> None:
    idle = IdleSlots(3)
    for slot in range(3):
        idle.take(slot)
        idle.put(slot, held(*range(100 * slot, 100 * slot + 50)), 20)
    idle.move(1, 0)
    assert [slot for slot, _ in idle if idle.holds(slot)] == [0, 2]
    assert idle.tokens(0)[0] == 100
    assert idle.goes_on(0, 20)
    assert not idle.goes_on(0, 15)
    assert not idle.goes_on(1, 0)


def test_clear_returns_the_slots_that_may_have_cells() -> None:
    """Those of a sequence that nothing may share are of no use, but still there."""
    idle = IdleSlots(3)
    for slot, tokens in ((1, held(5)), (2, held())):
        idle.take(slot)
        idle.put(slot, tokens)
    assert sorted(idle.clear()) == [1, 2]
    assert idle.clear() == []
    assert all(len(tokens) == 0 for _, tokens in idle)


def test_no_slot_is_left() -> None:
    idle = IdleSlots(1)
    assert idle.empty(but=(0,)) is None
    idle.reserve([0])
    assert idle.oldest() is None
    idle.release(0)
    idle.take(0)
    assert idle.oldest() is None
    assert 0 not in idle
