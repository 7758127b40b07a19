"""Buckets and percentiles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offgrid.stats.histogram import LATEST, PERCENTILES, Histogram, Latest, percentiles

VALUES = st.lists(st.floats(0, 100), max_size=50)


@given(VALUES, st.lists(st.floats(0, 100), min_size=1, max_size=8, unique=True))
def test_each_bucket_counts_the_values_up_to_its_bound(
    values: list[float], bounds: list[float]
) -> None:
    histogram = Histogram(sorted(bounds))
    for value in values:
        histogram.observe(value)
    expected = [(repr(b), float(sum(v <= b for v in values))) for b in sorted(bounds)]
    assert histogram.cumulative() == [*expected, ("+Inf", float(len(values)))]
    assert histogram.total == sum(values)


def test_a_value_may_count_several_times() -> None:
    histogram = Histogram((1, 2))
    histogram.observe(1.5, 3)
    assert histogram.cumulative() == [("1.0", 0), ("2.0", 3), ("+Inf", 3)]
    assert histogram.total == 4.5


@given(VALUES)
def test_so_many_values_are_at_most_a_percentile(values: list[float]) -> None:
    found = percentiles(values)
    if not values:
        assert found is None
        return
    assert found is not None
    for share, value in zip(PERCENTILES, found, strict=True):
        assert value in values
        assert sum(v <= value for v in values) * 100 >= share * len(values)
        assert sum(v < value for v in values) * 100 < share * len(values)


def test_only_the_latest_values_count() -> None:
    latest = Latest()
    assert latest.percentiles() is None
    for value in range(2 * LATEST):
        latest.add(value)
    assert latest.percentiles() == (1499, 1899, 1989)
