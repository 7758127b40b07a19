"""Which lane answers which requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from offgrid.api.http.waitress.lanes import Dispatcher, Lane, lane_of


@pytest.mark.parametrize(
    ("method", "path", "refused", "lane"),
    [
        ("GET", "/health", False, Lane.HEALTH),
        ("HEAD", "/health", False, Lane.HEALTH),
        ("GET", "/", False, Lane.SHORT),
        ("GET", "/openapi.json", False, Lane.SHORT),
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
