"""The load over time: bounded, in order whatever the clocks do, and with the right numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import pytest

from offgrid.stats import series
from offgrid.stats.series import CAPACITY, COLUMNS, STEP, Counters, Gauges, Series

NOTHING = Counters()
IDLE = Gauges()


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def column(rows: Sequence[Sequence[float]], name: str) -> list[float]:
    return [row[COLUMNS.index(name)] for row in rows]


def test_tokens_are_per_second_and_requests_are_counted(clock: Clock) -> None:
    made = Series(clock)
    made.add(Counters(100, 50, 7), IDLE)  # from here on
    clock.now += 5
    made.add(Counters(150, 60, 9, 1, 2), Gauges(running=2, waiting=1, slots=4, available=1e9))
    clock.now += 10
    made.add(Counters(150, 90, 9, 1, 2), IDLE)
    first, ages, rows = made.points("hour")
    assert (first, ages) == (0, [10.0, 0.0])
    assert column(rows, "prompt") == [10.0, 0.0]
    assert column(rows, "completion") == [2.0, 3.0]
    assert [column(rows, name) for name in ("answered", "refused", "failed")] == [
        [2, 0], [1, 0], [2, 0],
    ]  # fmt: skip
    assert column(rows, "running") == [2, 0]
    available = column(rows, "available")
    assert available[0] == 1e9
    assert math.isnan(available[1])
    assert all(math.isnan(value) for value in column(rows, "temperature"))


def test_the_day_has_means_and_sums_of_minutes(clock: Clock) -> None:
    made = Series(clock)
    made.add(NOTHING, IDLE)
    for look in range(1, 25):
        clock.now += STEP
        heat = 40.0 if look % 2 else math.nan
        made.add(Counters(completion=10 * look, answered=look),
                 Gauges(running=look % 3, temperature=heat))  # fmt: skip
    first, ages, rows = made.points("day")
    assert (first, ages) == (0, [60.0, 0.0])
    assert column(rows, "completion") == [2.0, 2.0]
    assert column(rows, "answered") == [12, 12]
    assert column(rows, "running") == [1.0, 1.0]
    assert column(rows, "temperature") == [40.0, 40.0]
    assert all(math.isnan(value) for value in column(rows, "available"))


def test_it_stays_as_large_as_it_begins(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three days: the arrays are never replaced, and each look writes one row, or two."""
    written = 0
    add = series._Ring.add

    def counted(ring: series._Ring, at: float, row: Sequence[float]) -> None:
        nonlocal written
        written += ring in rings  # not those of servers of other tests
        add(ring, at, row)

    made = Series(clock)
    rings = [*made._rings.values()]
    monkeypatch.setattr(series._Ring, "add", counted)
    arrays = [array for ring in rings for array in (ring._times, ring._values)]
    sizes = [sys.getsizeof(array) for array in arrays]
    assert sum(sizes) < 300_000
    looks = 3 * 86400 // int(STEP)
    for look in range(looks + 1):
        made.add(Counters(completion=look), IDLE)
        clock.now += STEP
    assert written == looks + looks // 12
    assert [array for ring in rings for array in (ring._times, ring._values)] == arrays
    assert [sys.getsizeof(array) for array in arrays] == sizes
    for window, most in CAPACITY.items():
        first, ages, rows = made.points(window)
        assert len(ages) == len(rows) == most
        assert ages == sorted(ages, reverse=True)
        assert first == (looks if window == "hour" else looks // 12) - most


def test_only_new_points_are_read(clock: Clock) -> None:
    made = Series(clock)
    assert made.points("hour") == (0, [], [])
    for look in range(4):
        made.add(Counters(completion=5 * look * look), IDLE)
        clock.now += STEP
    assert column(made.points("hour").rows, "completion") == [1.0, 3.0, 5.0]
    first, _, rows = made.points("hour", 0)
    assert (first, column(rows, "completion")) == (1, [3.0, 5.0])
    assert made.points("hour", 2).rows == []
    # A number from before a restart of the server.
    assert made.points("hour", 700).first == 0


def test_early_looks_and_restarted_workers_give_no_odd_points(clock: Clock) -> None:
    made = Series(clock)
    made.add(Counters(completion=50), IDLE)
    for seconds in (0, 1, 1, 3):  # the keeper looks again soon when a worker starts
        clock.now += seconds
        made.add(Counters(completion=60), IDLE)
    assert column(made.points("hour").rows, "completion") == [2.0]
    clock.now += 5
    made.add(Counters(completion=0), IDLE)
    assert column(made.points("hour").rows, "completion") == [2.0, 0.0]


def test_the_clock_never_goes_back_and_counts_sleep_where_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert series.steady() <= series.steady()
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    assert series.steady() <= series.steady()
