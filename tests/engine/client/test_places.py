"""The number of places in a queue, and which requests get them."""

from __future__ import annotations

import pytest

from offgrid.engine.client.places import Places
from offgrid.engine.client.readiness import Readiness
from offgrid.errors import InvalidParameter, Overloaded


@pytest.fixture
def readiness() -> Readiness:
    return Readiness(load_timeout=60, most_waiting=1)


@pytest.fixture
def places(readiness: Readiness) -> Places:
    return Places(2, 6, readiness)


def test_a_place_is_taken_until_it_is_given_back(places: Places) -> None:
    places.reserve(7)
    with pytest.raises(Overloaded, match="the queue is full"):
        places.reserve(2)
    assert places.taken == 7
    places.release(1)
    places.reserve(2)
    assert places.taken == places.capacity == 8


def test_a_request_with_many_sequences_leaves_places_to_others(places: Places) -> None:
    assert places.hold(1, 100) == 6  # two places are left, as many as there are slots
    assert places.hold(1, 100) == 1  # it gets one of the two
    assert places.hold(1, 100, more=True) == 0
    assert places.hold(1, 1) == 1
    with pytest.raises(Overloaded):
        places.hold(1, 1)


def test_sequences_of_one_request_are_held_together(places: Places) -> None:
    assert places.hold(4, 3) == 1
    assert places.taken == 4
    with pytest.raises(InvalidParameter, match="n must be at most 8"):
        places.hold(9, 1)


def test_a_model_about_to_be_unloaded_gives_no_place(places: Places, readiness: Readiness) -> None:
    readiness.close()
    with pytest.raises(Overloaded, match="has just been unloaded") as caught:
        places.reserve(1)
    assert caught.value.code == "model_loading"
    readiness.draining = True
    with pytest.raises(Overloaded, match="The server is stopping") as caught:
        places.reserve(0)
    assert caught.value.code == "server_shutting_down"
    assert places.taken == 0
