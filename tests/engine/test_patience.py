"""When a worker counts as stopped, and how soon the next one is started."""

from __future__ import annotations

from offgrid.engine.patience import Restarts


def test_workers_killed_from_outside_are_replaced_soon() -> None:
    restarts = Restarts()
    assert restarts.pause == 0
    for _ in range(20):
        restarts.ended(1.0, computed=False)
        assert 0 < restarts.pause <= 0.5  # never at once: it may die of itself again and again


def test_the_pause_grows_with_crashes_and_only_with_them() -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(10):
        restarts.ended(1.0, computed=True)
        pauses.append(restarts.pause)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30
    restarts.ended(1.0, computed=False)
    assert restarts.pause == 30
    restarts.ended(3600.0, computed=True)
    assert restarts.pause == 0.5
