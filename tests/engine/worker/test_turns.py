"""Queues in which callers take turns."""

from __future__ import annotations

import queue
import threading

import pytest
from support import TIMEOUT

from offgrid.engine.worker.turns import TurnQueue, Turns


def test_callers_take_turns() -> None:
    turns = Turns[str]()
    for name in ("a1", "a2", "a3", "b1", "c1", "c2"):
        turns.append(name[0], name)
    assert list(turns) == ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert turns.first() == "a1"
    turns.remove(lambda name: name in ("b1", "a3"))
    assert [turns.pop() for _ in range(4)] == ["a1", "c1", "a2", "c2"]
    assert not turns


def test_a_thread_waits_for_an_item() -> None:
    items = TurnQueue[int]()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.0)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.append(items.get()))
    reader.start()
    items.put("a", 1)
    reader.join(TIMEOUT)
    assert got == [1]
