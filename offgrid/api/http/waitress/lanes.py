"""Lanes: the threads that answer requests, apart by how long a request may need one.

A request may wait for a model, for a disk, or for nothing. With one queue for all of them,
``/health`` waits for its turn after each request that came just before it, and then takes turns at
Python's lock with as many threads as there are requests. So it has threads and a queue of its own,
and those of the short requests are few.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any

from waitress.task import ThreadedTaskDispatcher

from offgrid.api.http.gate import never_waits

_THREADS_FOR_HEALTH = 2
_THREADS_FOR_SHORT = 4


class Lane(enum.Enum):
    """Who shares threads with whom."""

    HEALTH = "health"
    """``/health``: waits for nothing."""
    SHORT = "short"
    """What needs no place at the gate, and what is refused: at most the disk is waited for."""
    WAITING = "waiting"
    """Whatever may wait for a model."""


def lane_of(method: str, path: str, refused: bool) -> Lane:
    """Return the lane of a request.

    Args:
        method: of the request.
        path: of its address, without the query.
        refused: whether it is answered without the application.
    """
    if path == "/health":
        return Lane.HEALTH
    return Lane.SHORT if refused or never_waits(method, path) else Lane.WAITING


class _Lane(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """waitress's queue and threads, under another name."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self._name = lane.value

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        name = f"{self._name}-{thread_no}"
        threading.Thread(target=target, name=name, args=(thread_no,), daemon=True).start()


class Dispatcher:
    """waitress's task dispatcher, with a queue and threads for each lane.

    Args:
        waiting: threads of the requests that may wait for a model.
    """

    def __init__(self, waiting: int) -> None:
        self._lanes = {lane: _Lane(lane) for lane in Lane}
        self._lanes[Lane.HEALTH].set_thread_count(_THREADS_FOR_HEALTH)
        self._lanes[Lane.SHORT].set_thread_count(_THREADS_FOR_SHORT)
        self._lanes[Lane.WAITING].set_thread_count(waiting)

    def add_task(self, channel: Any) -> None:
        """Have the next request of a connection answered."""
        self._lanes[channel.lane()].add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads; one that is at work has ``timeout`` seconds for it."""
        for lane in self._lanes.values():
            lane.set_thread_count(0)
        ended = [lane.shutdown(cancel_pending, timeout) for lane in self._lanes.values()]
        return all(ended)
