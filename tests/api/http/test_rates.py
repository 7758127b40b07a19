"""Buckets, accounts and the form of times in headers; no server."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.addresses import group_of
from offgrid.api.http.meter import CallerMeter
from offgrid.api.http.rates import Accounts, Bucket, shown
from offgrid.caller import Caller, Limits
from offgrid.errors import RateLimited

amounts = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=40)


def test_a_bucket_comes_back_evenly() -> None:
    bucket = Bucket()
    bucket.take(60, 60, 0.0)
    assert (bucket.left(60, 0.0), bucket.wait(1, 60, 0.0), bucket.reset(60, 0.0)) == (0, 1.0, 60.0)
    assert (bucket.left(60, 20.0), bucket.wait(21, 60, 20.0)) == (20, 1.0)
    assert (bucket.left(60, 59.5), bucket.left(60, 1e6)) == (59, 60)


def test_what_is_owed_is_paid_first() -> None:
    bucket = Bucket()
    bucket.take(180, 60, 0.0)
    assert (bucket.left(60, 0.0), bucket.wait(1, 60, 0.0)) == (0, 121.0)
    assert bucket.left(60, 121.0) == 1


@given(amounts, st.integers(1, 100))
def test_never_more_than_the_amount_and_what_comes_back(
    steps: list[tuple[float, int]], limit: int
) -> None:
    """E16: in any time, at most one bucket and a sixtieth of it per second is taken."""
    bucket, now, taken = Bucket(), 0.0, 0
    for pause, amount in steps:
        now += pause
        if not bucket.wait(amount, limit, now):
            bucket.take(amount, limit, now)
            taken += amount
        assert taken <= limit * (1 + now / 60) + 0.001
        assert 0 <= bucket.left(limit, now) <= limit


@given(st.integers(1, 1000), st.integers(1, 2000), st.floats(0, 1e6))
def test_after_the_wait_it_is_left(limit: int, used: int, now: float) -> None:
    bucket = Bucket()
    bucket.take(used, limit, now)
    wait = bucket.wait(1, limit, now)
    assert bucket.left(limit, now + wait + 1e-3) >= 1


def test_the_limit_may_change() -> None:
    bucket = Bucket()
    bucket.take(10, 10, 0.0)
    assert (bucket.left(10, 0.0), bucket.left(30, 0.0), bucket.left(5, 0.0)) == (0, 20, 0)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    """The monotonic clock never does, but two threads may read it in one order and use it in the
    other."""
    bucket = Bucket()
    bucket.take(10, 10, 100.0)
    assert bucket.left(10, 99.0) == 0


def test_the_system_clock_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault suite: clock jumps of a day in both directions leave the limits unaffected."""
    accounts = Accounts()
    with accounts.lock:
        account = accounts.of("a")
        account.requests.take(10, 10, accounts.clock())
        now = time.time()
        for jump in (86400.0, -86400.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
            assert 0 < account.requests.wait(10, 10, accounts.clock()) <= 60


def test_the_number_of_accounts_is_bounded() -> None:
    """E16: 100,000 addresses leave no more than the latest; running requests stay counted."""
    accounts = Accounts(most=100)
    busy = accounts.of("busy")
    busy.running = 1
    idle = accounts.of("idle")
    for number in range(100_000):
        accounts.of(f"2001:db8:{number:x}::")
    assert len(accounts) == 100
    assert accounts.of("busy") is busy
    assert accounts.of("idle") is not idle
    assert accounts.of("2001:db8:1869f::") is accounts.of("2001:db8:1869f::")


def test_many_addresses_of_many_households() -> None:
    """E16: 100,000 addresses, as a client with IPv6 or a trusted proxy may send them. Those of one
    household share a limit; the others do not fill the memory."""
    accounts = Accounts(most=1000)
    limits = Limits(requests_per_minute=1)

    def admitted(address: str) -> bool:
        meter = CallerMeter(accounts, Caller(group_of(address), address=address), limits)
        try:
            meter.admit()
        except RateLimited:
            return False
        finally:
            meter.leave()
        return True

    assert admitted("2001:db8:0:1::1")
    assert not any(admitted(f"2001:db8:0:1::{n:x}") for n in range(2, 1000))
    assert all(admitted(f"2001:db8:{n:x}:1::1") for n in range(1, 5000))
    assert len(accounts) == 1000
    assert all(accounts.of(f"2001:db8:{n:x}:1::").running == 0 for n in range(4000, 5000))


STEPS = ["begin", "response ends", "answer ends"]
meters = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=60)


@given(meters, st.integers(1, 4))
def test_running_requests_are_counted_exactly(steps: list[tuple[str, int]], most: int) -> None:
    """E13: whatever ends first, the response or the answer, each request is counted once."""
    accounts, limits = Accounts(), Limits(concurrent_requests=most)
    held: list[list[Callable[[], None]]] = []
    for step, index in steps:
        if step == "begin":
            meter = CallerMeter(accounts, Caller("a"), limits)
            full = sum(map(bool, held)) >= most
            try:
                meter.admit()
            except RateLimited:
                assert full
                meter.leave()
            else:
                assert not full
                held.append([meter.leave, meter.hold()])
        elif held and held[index % len(held)]:
            ends = held[index % len(held)]
            end = ends.pop(0 if step == "response ends" else -1)
            end()
            end()
        with accounts.lock:
            assert accounts.of("a").running == sum(map(bool, held))


def test_a_stream_that_is_collected_while_the_lock_is_held() -> None:
    """E13: a destructor may run in a thread that holds the lock, and must not wait for it."""
    accounts = Accounts()
    meter = CallerMeter(accounts, Caller("a"), Limits(tokens_per_minute=10, concurrent_requests=1))
    meter.admit()
    meter.prompt(0)
    with accounts.lock:
        meter.leave()
        meter.charge(4)
        assert accounts.of("a").running == 1
    with accounts.lock:
        account = accounts.of("a")
        assert account.running == 0
        assert account.tokens.left(10, accounts.clock()) == 6


def test_all_accounts_may_be_running() -> None:
    accounts = Accounts(most=2)
    for number in range(5):
        accounts.of(str(number)).running = 1
    assert len(accounts) == 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0001, "1ms"), (0.12, "120ms"), (0.9999, "1s"), (1, "1s"), (1.5, "1.5s"),
        (59.9999, "1m0s"), (60, "1m0s"), (90.25, "1m30.25s"), (360, "6m0s"), (3661.5, "1h1m1.5s"),
    ],
)  # fmt: skip
def test_times_in_headers(seconds: float, text: str) -> None:
    assert shown(seconds) == text
