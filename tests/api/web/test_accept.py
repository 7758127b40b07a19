"""Who gets the page at ``/``, and who gets compressed files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.api.web.accept import accepts_gzip, prefers_html

CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
LYNX = "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (CHROME, True),
        (FIREFOX, True),
        (LYNX, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html;charset=utf-8", True),
        ("text/*", True),
        ("application/json;q=0.5, text/html;q=0.6", True),
        ("text/html;q=0.1", True),
        ("*/*", False),  # curl, requests, httpx
        ("application/json", False),  # the openai client
        ("application/json, text/html;q=0.9", False),
        ("text/html, application/json", False),
        ("application/json, text/plain, */*", False),  # axios
        ("text/html;q=0, */*", False),
        ("text/event-stream", False),
        ("image/avif,image/webp,*/*;q=0.5", False),
        ("", False),
        ("html", False),
        ("text/html;q=2", False),
        ("text/html;q=x", False),
    ],
)
def test_who_prefers_html(accept: str, wanted: bool) -> None:
    assert prefers_html(accept) is wanted


@pytest.mark.parametrize(
    ("accept", "accepted"),
    [
        ("gzip, deflate, br, zstd", True),
        ("gzip", True),
        ("GZIP;Q=0.5", True),
        ("br;q=1.0, gzip ; q = 0.8", True),
        ("*", True),
        ("*;q=0.1, gzip;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=nan", False),
        ("gzip;q=9", False),
        ("gzip;q=", False),
        ("gzip;level=9", False),
        ("identity", False),
        ("br", False),
        ("x-gzip", False),
        ("notgzip", False),
        ("", False),
        (",,;", False),
    ],
)
def test_who_gets_gzip(accept: str, accepted: bool) -> None:
    assert accepts_gzip(accept) is accepted


@given(st.text("texhml/*;q=0.19, gip-", max_size=60))
def test_any_header_has_an_answer(header: str) -> None:
    assert isinstance(prefers_html(header), bool)
    assert isinstance(accepts_gzip(header), bool)
