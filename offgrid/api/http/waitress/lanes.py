"""Lanes: groups of threads that answer requests, separated by how long a request may need one.

A request may wait for a model, for a disk, or for nothing. With one queue for all of them,
``/health`` would wait for each request that came just before it, and then take turns at Python's
lock with as many threads as there are requests. So ``/health`` has its own queue and threads, the
statistics have theirs, and the lane for short requests has few threads. Files that peers copy have
a lane too: each occupies a thread for as long as its peer reads.
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
_THREADS_FOR_STATS = 1
_THREADS_FOR_FILES = 4
_HEALTH = frozenset({"/health", "/peer/alive", "/ready"})
_STATS = frozenset({"/metrics", "/v1/stats"})
_FILES = "/peer/models/"


class Lane(enum.Enum):
    """The classes of requests; each class has its own threads."""

    HEALTH = "health"
    """``/health`` and ``/ready``: they wait for nothing."""
    STATS = "stats"
    """``/metrics`` and ``/v1/stats``: they wait for nothing, and take some milliseconds."""
    SHORT = "short"
    """Requests without a place at the gate, and refused ones: they wait for a disk at most."""
    FILES = "files"
    """Files of models for peers: they wait until the peer has read them, and for no model."""
    WAITING = "waiting"
    """Requests that may wait for a model."""


def lane_of(method: str, path: str, refused: bool) -> Lane:
    """Return the lane of a request.

    Args:
        method: its HTTP method.
        path: its path, without the query.
        refused: whether it was refused before the application sees it.
    """
    if path in _HEALTH:
        return Lane.HEALTH
    if path in _STATS:
        return Lane.STATS
    if path.startswith(_FILES) and not refused:
        return Lane.FILES
    return Lane.SHORT if refused or never_waits(method, path) else Lane.WAITING


class LatestFirst:
    """A condition variable that wakes the thread which began to wait last.

    Its stack and what malloc keeps for it are in use already. ``threading.Condition`` wakes the
    thread that has waited longest, so in time each of a hundred threads would keep some 200 KB,
    however few requests come at once.

    Args:
        lock: the caller of a method holds it.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._idle: list[threading.Lock] = []

    def wait(self) -> None:
        """Release the lock, wait for a notification, and take the lock again."""
        bell = threading.Lock()
        bell.acquire()
        self._idle.append(bell)
        self._lock.release()
        try:
            bell.acquire()
        finally:
            self._lock.acquire()

    def notify(self) -> None:
        """Wake a thread, if one waits."""
        if self._idle:
            self._idle.pop().release()

    def notify_all(self) -> None:
        """Wake all threads that wait."""
        while self._idle:
            self.notify()


class _Lane(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """waitress's queue and threads; the threads are named after the lane."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self.queue_cv = LatestFirst(self.lock)
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
        self._lanes[Lane.STATS].set_thread_count(_THREADS_FOR_STATS)
        self._lanes[Lane.SHORT].set_thread_count(_THREADS_FOR_SHORT)
        self._lanes[Lane.FILES].set_thread_count(_THREADS_FOR_FILES)
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
