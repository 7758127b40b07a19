"""Lanes: groups of threads that answer requests, separated by how long a request may need one.

A request may wait for a model, for a disk, or for nothing. With one queue for all of them,
``/health`` would wait for each request that came just before it, and then take turns at Python's
lock with as many threads as there are requests. So ``/health`` has its own queue and threads, and
the lane for short requests has few threads.
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
    """The classes of requests; each class has its own threads."""

    HEALTH = "health"
    """``/health``: waits for nothing."""
    SHORT = "short"
    """Requests without a place at the gate, and refused ones: they wait for a disk at most."""
    WAITING = "waiting"
    """Requests that may wait for a model."""


def lane_of(method: str, path: str, refused: bool) -> Lane:
    """Return the lane of a request.

    Args:
        method: its HTTP method.
        path: its path, without the query.
        refused: whether it was refused before the application sees it.
    """
    if path == "/health":
        return Lane.HEALTH
    return Lane.SHORT if refused or never_waits(method, path) else Lane.WAITING


class _Lane(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """waitress's queue and threads; the threads are named after the lane."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self._name = lane.value

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        name = f"http-{self._name}-{thread_no}"
        threading.Thread(target=target, name=name, args=(thread_no,), daemon=True).start()


class Dispatcher:
    """waitress's task dispatcher, with a queue and threads for each lane.

    Args:
        waiting: number of threads for requests that may wait for a model.
    """

    def __init__(self, waiting: int) -> None:
        self._lanes = {lane: _Lane(lane) for lane in Lane}
        self._lanes[Lane.HEALTH].set_thread_count(_THREADS_FOR_HEALTH)
        self._lanes[Lane.SHORT].set_thread_count(_THREADS_FOR_SHORT)
        self._lanes[Lane.WAITING].set_thread_count(waiting)

    def add_task(self, channel: Any) -> None:
        """Queue the next request of a connection in its lane."""
        self._lanes[channel.lane()].add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads; each lane waits up to ``timeout`` seconds for busy ones."""
        for lane in self._lanes.values():
            lane.set_thread_count(0)
        ended = [lane.shutdown(cancel_pending, timeout) for lane in self._lanes.values()]
        return all(ended)
