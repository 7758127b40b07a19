"""The stopwatch, with a clock that the test sets."""

from __future__ import annotations

from offgrid.engine.protocol.events import Times
from offgrid.engine.worker.stopwatch import Stopwatch


def test_the_first_token_ends_the_time_of_the_prompt() -> None:
    now = [10.0]
    watch = Stopwatch(lambda: now[0])
    assert watch.times() == Times(0.0, 0.0)  # it waits
    watch.begin()
    now[0] = 12.0
    assert watch.prompt_ms == 2000.0
    watch.begin()  # it was preempted
    now[0] = 13.0
    watch.token()
    assert watch.times() == Times(3000.0, 0.0)
    for now[0] in (14.0, 15.5):
        watch.token()
    now[0] = 99.0
    assert watch.times() == Times(3000.0, 2500.0)
