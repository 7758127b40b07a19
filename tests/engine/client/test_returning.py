"""Models of the start that are loaded again by themselves, and how often that is tried."""

from __future__ import annotations

import pytest
from pools import MakePool, names

from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.readiness import LoadFailure
from offgrid.engine.client.returning import Found, next_pause


def test_each_load_that_fails_makes_the_next_attempt_later() -> None:
    pause, pauses = 5.0, list[float]()
    for _ in range(3):
        found: list[Found] = ["missing", "loading", "loading"]
        for one in found:
            pause = next_pause(pause, one)
            pauses.append(pause)
    assert pauses == [10.0] * 3 + [20.0] * 3 + [40.0] * 3
    for _ in range(3):
        pause = next_pause(pause, "missing")
    assert pause == 60.0
    assert next_pause(pause, "complete") == 5.0


@pytest.mark.slow
def test_a_load_counts_only_once_the_model_is_there(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(default_model="a")
    assert pool._bring_back() == "complete"  # nothing has failed
    for _ in range(2):
        failure = LoadFailure("The machine was lost.", lasting=False)
        pool.roster.remember(pool.find("a"), failure)
        assert pool._bring_back() == "missing"
        assert names(pool) == ["a"]
        with monkeypatch.context() as patched:
            patched.setattr(EngineClient, "ready", False)
            assert pool._bring_back() == "loading"
        pool.engine("a")
        assert pool._bring_back() == "complete"
        pool.unload("a")
