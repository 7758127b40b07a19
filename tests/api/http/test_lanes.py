"""Which lane answers which requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from offgrid.api.http.waitress.lanes import Dispatcher, Lane, LatestFirst, lane_of


@pytest.mark.parametrize(
    ("method", "path", "refused", "lane"),
    [
        ("GET", "/health", False, Lane.HEALTH),
        ("HEAD", "/health", False, Lane.HEALTH),
        ("GET", "/ready", False, Lane.HEALTH),
        ("GET", "/metrics", False, Lane.STATS),
        ("GET", "/v1/stats", False, Lane.STATS),
        ("GET", "/", False, Lane.SHORT),
        ("GET", "/openapi.json", False, Lane.SHORT),
        ("GET", "/ui", False, Lane.SHORT),
        ("GET", "/ui/", False, Lane.SHORT),
        ("GET", "/ui/vendor/preact.js", False, Lane.SHORT),
        ("GET", "/favicon.ico", False, Lane.SHORT),
        ("GET", "/uix", False, Lane.WAITING),
        ("GET", "/v1/models", False, Lane.SHORT),
        ("GET", "/v1/models/a%20model", False, Lane.SHORT),
        ("POST", "/v1/models/a%20model/load", False, Lane.WAITING),
        ("OPTIONS", "/v1/models/a%20model/load", False, Lane.SHORT),
        ("OPTIONS", "/v1/chat/completions", False, Lane.SHORT),
        ("POST", "/v1/chat/completions", False, Lane.WAITING),
        ("POST", "/v1/chat/completions", True, Lane.SHORT),
        ("GET", "/tokenizer_info", False, Lane.WAITING),
        ("GET", "/no/such/page", False, Lane.WAITING),
    ],
)
def test_the_lane_of_a_request(method: str, path: str, refused: bool, lane: Lane) -> None:
    assert lane_of(method, path, refused) is lane


class Task:
    """A request that runs until the test ends it."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.begun = threading.Event()
        self.end = threading.Event()
        self.thread = ""
        self.cancelled = False

    def lane(self) -> Lane:
        return self._lane

    def service(self) -> None:
        self.thread = threading.current_thread().name
        self.begun.set()
        assert self.end.wait(60)

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher(3)
    yield made
    made.shutdown(timeout=60)


@pytest.mark.parametrize("full", [Lane.SHORT, Lane.WAITING])
def test_a_full_lane_does_not_delay_other_lanes(dispatcher: Dispatcher, full: Lane) -> None:
    many = [Task(full) for _ in range(20)]
    for task in many:
        dispatcher.add_task(task)
    try:
        for lane in set(Lane) - {full}:
            task = Task(lane)
            dispatcher.add_task(task)
            assert task.begun.wait(60)
            assert task.thread.startswith(f"http-{lane.value}-")
            task.end.set()
        assert sum(task.begun.is_set() for task in many) < len(many)
    finally:
        for task in many:
            task.end.set()


def test_requests_that_have_not_begun_are_cancelled_at_the_end(dispatcher: Dispatcher) -> None:
    tasks = [Task(Lane.WAITING) for _ in range(4)]
    for task in tasks[:3]:
        dispatcher.add_task(task)
        assert task.begun.wait(60)
    dispatcher.add_task(tasks[3])
    dispatcher.shutdown(timeout=0)
    for task in tasks:
        task.end.set()
    assert [task.cancelled for task in tasks] == [False, False, False, True]


def test_the_thread_that_began_to_wait_last_is_woken_first() -> None:
    """So few requests use few threads, and the memory of few threads."""
    lock, woken = threading.Lock(), []
    condition = LatestFirst(lock)
    threads = []
    for number in range(4):
        holds_the_lock = threading.Event()

        def wait(number: int = number, holds_the_lock: threading.Event = holds_the_lock) -> None:
            with lock:
                holds_the_lock.set()
                condition.wait()
                woken.append(number)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        assert holds_the_lock.wait(60)
        with lock:
            pass  # the thread waits: it has released the lock
    for number in (3, 2):
        with lock:
            condition.notify()
        threads[number].join(60)
        assert woken[-1] == number
    with lock:
        condition.notify_all()
        condition.notify()  # nobody waits
    for thread in threads:
        thread.join(60)
    assert sorted(woken) == [0, 1, 2, 3]
