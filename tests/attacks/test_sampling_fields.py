"""Sampling parameters that cause much work before sampling: others are served meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Child
from support import Stream, request, together
from tiny_models import make_wordy

pytestmark = pytest.mark.usefixtures("access")
TEXT = "/v1/completions"
Serve = Callable[..., Child]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "wordy", "prompt": "Hello", "ignore_eos": True, "max_tokens": 3, **fields}


def breakers(first: str) -> list[str]:
    """As many and as long breakers as a request may have."""
    return [f"{first}{number:02}".ljust(40, "z") for number in range(64)]


@pytest.mark.slow
def test_breakers_of_a_large_vocabulary(serve: Serve, models: Path) -> None:
    """Breakers with too many token sequences are refused, others accepted; a stream continues.

    Each of 64 breakers of 40 letters used to be compared with every token of the vocabulary, so
    that the request had no answer for minutes and every later prompt waited.
    """
    make_wordy(models)
    url = serve("--parallel", "4").wait_ready()
    with Stream(url, TEXT, body(stream=True, max_tokens=3000)) as stream:
        assert stream.read_some()
        hard = body(dry_multiplier=1.0, dry_sequence_breakers=breakers("a"))
        easy = body(dry_multiplier=1.0, dry_sequence_breakers=breakers("7"), n=4)
        refused, taken, other = together(
            [lambda sent=sent: request(url, "POST", TEXT, sent) for sent in (hard, easy, body())]
        )
        assert refused.status == 400
        error = refused.json["error"]
        assert error["param"] == "dry_sequence_breakers"
        assert "more than 32768 token sequences" in error["message"]
        assert taken.status == other.status == 200
        assert len(taken.json["choices"]) == 4
        assert stream.read_some()
        stream.leave()
