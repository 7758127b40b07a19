"""The gate: how many requests may wait for a model, and what the others are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import falcon
import pytest
from falcon.testing import create_req
from pools import Clock, MakePool, hold, pools, slow
from tiny_models import make

from offgrid.api.http.gate import Gate
from offgrid.config import load_settings
from offgrid.errors import Overloaded


@pytest.fixture
def make_pool(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[MakePool]:
    with pools(tmp_path, make("llama", tmp_path_factory.mktemp("tiny")), Clock()) as make_one:
        yield make_one


def come(gate: Gate) -> None:
    gate.process_resource(create_req(path="/tokenize"), falcon.Response(), None, {})


def test_a_request_without_a_place_is_told_when_one_is_free(make_pool: MakePool) -> None:
    """From the speed of the models that answer requests now; at most a minute."""
    pool = make_pool()
    client = pool.engine("a")
    gate = Gate(pool, load_settings({"parallel": 1, "queue_size": 1, "max_models": 1}, environ={}))
    for _ in range(1 + 1 + 8):
        come(gate)
    for seconds, retry_after in ((0.0, 1), (7.5, 8), (1000.0, 60)):
        slow(client, seconds)
        release = hold(client)
        with pytest.raises(Overloaded, match="maximum number of requests") as caught:
            come(gate)
        assert caught.value.retry_after == retry_after
        release()
    assert gate.taken == 10
