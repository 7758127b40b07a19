"""A cache whose values are made once, by one of many threads that ask."""

from __future__ import annotations

import threading

import pytest
from support import TIMEOUT, together

from offgrid.once import OncePerKey


def test_many_threads_ask_and_one_makes_the_value() -> None:
    asked = threading.Barrier(9)
    made: list[object] = []

    def make(key: str) -> object:
        asked.wait(TIMEOUT)  # every other thread is at the cache by now
        made.append(object())
        return made[-1]

    cache = OncePerKey(make, 4)

    def ask() -> object:
        if threading.current_thread() is not first:
            asked.wait(TIMEOUT)
        return cache("a")

    results: list[object] = []
    first = threading.Thread(target=lambda: results.append(ask()))
    first.start()
    results += together([ask] * 8)
    first.join(TIMEOUT)
    assert len(made) == 1
    assert len(results) == 9
    assert all(result is made[0] for result in results)


def test_nobody_waits_for_the_value_of_another_key() -> None:
    other_is_there = threading.Event()

    def make(key: str) -> str:
        if key == "slow":
            assert other_is_there.wait(TIMEOUT)
        return key

    cache = OncePerKey(make, 4)

    def ask_other() -> None:
        assert cache("other") == "other"
        other_is_there.set()

    assert together([lambda: cache("slow"), ask_other])[0] == "slow"


def test_what_failed_is_tried_again() -> None:
    tries: list[str] = []

    def make(key: str) -> str:
        tries.append(key)
        if len(tries) == 1:
            raise ValueError(key)
        return key

    cache = OncePerKey(make, 4)
    with pytest.raises(ValueError, match="a"):
        cache("a")
    assert cache("a") == cache("a") == "a"
    assert tries == ["a", "a"]


def test_the_least_recently_used_goes_first() -> None:
    made: list[str] = []
    cache = OncePerKey(lambda key: made.append(key) or key, 2)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert cache(key) == key
    assert made == ["a", "b", "c", "b"]
