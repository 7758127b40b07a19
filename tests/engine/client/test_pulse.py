"""What a worker has said about itself, and how long it has made no progress."""

from __future__ import annotations

import itertools

import pytest

from offgrid.engine.client.pulse import Pulse
from offgrid.engine.protocol.reports import Figures, Pong

NUMBERS = itertools.count(1)


def pong(busy_for: float = 0.0, prefilled: int = 0, generated: int = 0) -> Pong:
    return Pong(
        next(NUMBERS), busy_for, 2, 3, figures=Figures(prefilled=prefilled, generated=generated)
    )


def test_a_worker_that_has_said_nothing() -> None:
    pulse = Pulse()
    pulse.begin(100.0)
    assert pulse.latest is None
    assert pulse.without_progress(104.0) == 4.0
    assert pulse.throughput(104.0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("busy_for", "later", "seconds"),
    [
        (0.0, 0.5, 0.5),  # idle, half a second ago
        (7.0, 0.5, 7.5),  # in a long step
        (0.0, 40.0, 40.0),  # silent: it was stopped, or its process is stuck
    ],
)
def test_a12_how_long_a_worker_has_made_no_progress(
    busy_for: float, later: float, seconds: float
) -> None:
    """A12: a worker that was stopped does not answer, and counts as one without progress."""
    pulse = Pulse()
    pulse.begin(0.0)
    pulse.heard(100.0, pong(busy_for))
    assert pulse.without_progress(100.0 + later) == seconds


def test_throughput_of_the_last_minute() -> None:
    pulse = Pulse()
    pulse.begin(0.0)
    for second in range(200):
        pulse.heard(float(second), pong(prefilled=10 * second, generated=2 * second))
    assert pulse.throughput(199.0) == (10.0, 2.0)
    assert pulse.throughput(1000.0) == (0.0, 0.0)  # silent for more than a minute


def test_the_next_worker_begins_anew() -> None:
    pulse = Pulse()
    pulse.begin(0.0)
    pulse.heard(1.0, pong(generated=1000))
    pulse.begin(5.0)
    assert pulse.latest is None
    pulse.heard(6.0, pong(generated=0))
    pulse.heard(7.0, pong(generated=3))
    assert pulse.throughput(7.0) == (0.0, 3.0)


def test_further_answers_to_one_ping_do_not_shorten_the_minute() -> None:
    """Somebody who asks for the slots again and again makes a worker answer more often."""
    pulse = Pulse()
    pulse.begin(0.0)
    for second in range(60):
        answer = pong(prefilled=10 * second)
        for _ in range(5):
            pulse.heard(float(second), answer)
    assert pulse.throughput(59.0) == (10.0, 0.0)
    newer = pong(generated=1)
    pulse.heard(60.0, newer)
    pulse.heard(60.5, newer)
    assert pulse.latest is not None
    assert pulse.latest.at == 60.5
