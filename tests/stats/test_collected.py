"""What becomes of requests is added up, on whatever thread they end."""

from __future__ import annotations

import gc
import threading

import pytest
from support import together

from offgrid.record import Outcome, Record
from offgrid.stats.collected import UNKNOWN, Stats
from offgrid.stats.totals import TotalsFile


@pytest.fixture
def stats() -> Stats:
    return Stats(TotalsFile(None))


def record_of(stats: Stats, *, endpoint: str = "/v1/completions", status: int = 200) -> Record:
    return Record("r", "POST", endpoint, status=status, sink=stats.note, began=50.0)


OUTCOME = Outcome(
    "m", 100, 40, 11, 10, (("stop", 1),), 6, 4, queue=0.5, first_token=52.0, prefill=1.0, decode=2.0
)


def test_an_answer(stats: Stats) -> None:
    record = record_of(stats)
    record.report(OUTCOME)
    record.seconds = 4.5
    stats.ended(record)
    with stats.read() as (totals, figures):
        one = figures["m"]
        sums = {name: histogram.total for name, histogram in one.histograms.items()}
        counts = {name: sum(histogram.counts) for name, histogram in one.histograms.items()}
        assert totals.requests == {("POST", "/v1/completions", "2xx"): 1}
    assert sums == {
        "first_token": 2.0, "per_token": pytest.approx(2.0), "request_per_token": 0.2,
        "whole": 4.5, "queue": 0.5, "prefill": 1.0, "decode": 2.0, "inference": 3.0,
        "prompt_tokens": 100, "completion_tokens": 11,
    }  # fmt: skip
    assert counts == {**dict.fromkeys(sums, 1), "per_token": 10}
    assert (one.used.requests, one.used.prompt, one.used.cached, one.used.completion) == (
        1, 100, 40, 11
    )  # fmt: skip
    assert (one.drafted, one.draft_accepted, one.finished) == (6, 4, {"stop": 1})
    assert one.per_token.percentiles() == (0.2, 0.2, 0.2)


def test_a_request_that_got_no_slot(stats: Stats) -> None:
    record = record_of(stats, status=503)
    record.report(Outcome("m", finished=(("error", 1),), status=503, code="server_busy"))
    record.seconds = 0.1
    stats.ended(record)
    with stats.read() as (totals, figures):
        counted = {n: sum(h.counts) for n, h in figures["m"].histograms.items()}
        assert {name for name, count in counted.items() if count} == {"whole"}
        assert totals.requests == {("POST", "/v1/completions", "5xx"): 1}


def test_a_path_that_no_route_matches(stats: Stats) -> None:
    record = record_of(stats, endpoint="", status=404)
    stats.ended(record)
    assert stats.totals().requests == {("POST", UNKNOWN, "4xx"): 1}


def test_many_threads_lose_no_request(stats: Stats) -> None:
    def many() -> None:
        for _ in range(500):
            record = record_of(stats)
            record.report(OUTCOME)
            record.seconds = 1.0
            stats.ended(record)

    def read() -> None:
        for _ in range(50):
            with stats.read():
                pass

    together([many, many, many, read, read])
    assert stats.totals().requests == {("POST", "/v1/completions", "2xx"): 1500}
    assert stats.totals().models["m"].completion == 1500 * 11


def test_a_request_that_is_collected_while_the_statistics_are_read(stats: Stats) -> None:
    """A destructor may run while this thread holds the lock: it must not wait for it."""

    class Abandoned:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            for _ in range(300):
                stats.note(record_of(stats), OUTCOME)
                stats.ended(record_of(stats))

    def read() -> None:
        Abandoned()
        with stats.read():
            gc.collect()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert stats.totals().models["m"].completion == 300 * 11


def test_the_queue_of_ends_stays_short(stats: Stats) -> None:
    """Even if no client ever asks for the statistics."""
    for _ in range(5000):
        record = record_of(stats)
        record.report(OUTCOME)
        stats.ended(record)
    assert len(stats._ends) < 1000
