"""Times that may have no end, as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.api.fields.keep_alive import _PATTERN
from offgrid.config import FOREVER, shown_lifetime, to_lifetime


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5m", 300), ("1h30m", 5400), (" 90S ", 90), ("2d", 172_800), ("500ms", 0.5),
        ("1.5h", 5400), ("0", 0), ("0s", 0), (0, 0), (300, 300), ("300", 300), (0.25, 0.25),
        (-1, FOREVER), ("-1", FOREVER), ("-5m", FOREVER), ("forever", FOREVER),
        (1e9, 1e9), ("99999999999999999999", FOREVER), ("999999999d", FOREVER),
    ],
)  # fmt: skip
def test_times(written: object, seconds: float) -> None:
    assert to_lifetime(written) == seconds


@pytest.mark.parametrize(
    "written",
    ["", "m", "5x", "m5", "1h-5m", "--5m", "-", "inf", "nan", "5mm", "9" * 400, True, None, [5],
     float("nan"), float("inf")],
)  # fmt: skip
def test_other_values_are_refused(written: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        to_lifetime(written)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(300, "5m"), (5400, "1h30m"), (90_061, "1d1h1m1s"), (0, "0s"), (0.5, "0.5s"),
     (FOREVER, "forever")],
)  # fmt: skip
def test_what_is_shown_means_the_same(seconds: float, shown: str) -> None:
    assert shown_lifetime(seconds) == shown
    assert to_lifetime(shown) == seconds


@given(st.from_regex(_PATTERN, fullmatch=True))
def test_every_text_that_the_document_allows_is_a_time(text: str) -> None:
    assert re.search(_PATTERN, text)
    if len(text) <= 32:
        assert to_lifetime(text) >= 0
