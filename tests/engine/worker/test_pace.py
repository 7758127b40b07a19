"""How long a chunk of a prompt may be while streams run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.worker.pace import Pace


def test_the_setting_holds_until_times_are_known() -> None:
    pace = Pace(64, 512)
    assert pace.prefill_tokens() == 64
    pace.observe(0, 512, 1.0)
    assert pace.prefill_tokens() == 64
    pace.observe(4, 0, 0.1)
    assert pace.prefill_tokens() != 64


def test_a_chunk_takes_as_long_as_the_streams() -> None:
    pace = Pace(64, 512)
    pace.observe(4, 0, 0.050)
    pace.observe(4, 20, 0.090)
    assert pace.prefill_tokens() == 25  # 2 ms each, 50 ms in total
    for _ in range(200):
        pace.observe(4, 25, 0.150)  # now 4 ms each
    assert pace.prefill_tokens() == 12


def test_chunks_have_a_minimum_and_a_maximum() -> None:
    pace = Pace(64, 512)
    pace.observe(4, 0, 0.001)
    pace.observe(4, 10, 5.0)
    assert pace.prefill_tokens() == 8
    pace = Pace(64, 512)
    pace.observe(4, 0, 1.0)
    pace.observe(4, 10, 1.0001)
    assert pace.prefill_tokens() == 512


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 512), st.floats(0, 10))))
def test_never_outside_its_bounds(steps: list[tuple[int, int, float]]) -> None:
    pace = Pace(64, 512)
    for step in steps:
        pace.observe(*step)
        assert 8 <= pace.prefill_tokens() <= 512
    assert 1 <= Pace(64, 3).prefill_tokens() <= 3


def test_a_prefill_too_short_to_notice_is_done_at_once() -> None:
    pace = Pace(64, 512)
    assert pace.burst_tokens == 0
    pace.observe(0, 100, 0.01)
    assert pace.burst_tokens == 100
    for _ in range(200):
        pace.observe(0, 100, 1.0)
    assert pace.burst_tokens == 1
    for _ in range(400):
        pace.observe(0, 100, 0.0001)
    assert pace.burst_tokens == 512


def test_steps_that_take_no_time_do_not_divide_by_zero() -> None:
    pace = Pace(64, 512)
    pace.observe(4, 0, 1.0)
    for _ in range(20_000):
        pace.observe(4, 10, 0.5)
    assert pace.prefill_tokens() == 512
    assert pace.burst_tokens == 512


def test_many_prompts_get_as_much_time_as_each_stream_has() -> None:
    pace = Pace(64, 512)
    pace.observe(4, 0, 0.050)
    pace.observe(4, 20, 0.090)  # 2 ms per token
    assert pace.prefill_tokens(4, 1) == pace.prefill_tokens(4, 4) == 25
    assert pace.prefill_tokens(2, 6) == 75
    assert pace.prefill_tokens(1, 100) == 512
