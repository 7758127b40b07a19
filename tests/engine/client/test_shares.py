"""Places that callers share, and the estimate of when one becomes free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offgrid.engine.client.shares import Shares
from offgrid.engine.client.turnover import Turnover


def test_one_caller_may_take_all_usual_places_and_no_more() -> None:
    shares = Shares(4, 4)
    assert shares.take("a", 3)
    assert not shares.take("a", 2)
    assert shares.take("a")
    assert not shares.take("a")
    assert shares.missing("a", 1) == 1


def test_another_caller_gets_its_share_of_a_full_queue() -> None:
    shares = Shares(4, 4)
    shares.take("a", 4)
    assert [shares.take("b") for _ in range(3)] == [True, True, False]
    shares.give_back("a")
    assert not shares.take("a"), "it holds more than its share"
    shares.give_back("a", 2)
    assert (shares.held("a"), shares.taken) == (1, 3)
    assert shares.take("a")


def test_the_first_request_of_a_caller_may_be_larger_than_its_share() -> None:
    shares = Shares(4, 4)
    shares.take("a", 4)
    assert shares.take("b", 3)
    assert not shares.take("b")


def test_many_callers_find_a_limit() -> None:
    shares = Shares(4, 3)
    shares.take("a", 4)
    assert [shares.take(name) for name in "bcde"] == [True, True, True, False]
    assert shares.missing("e", 1) == 1


class Random(RuleBasedStateMachine):
    """Callers take and give back at random."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(6, 5)
        self.held: dict[str, int] = {}

    @rule(owner=st.sampled_from("abcd"), n=st.integers(1, 3))
    def take(self, owner: str, n: int) -> None:
        before = self.shares.missing(owner, n)
        got = self.shares.take(owner, n)
        assert got == (before == 0)
        if got:
            self.held[owner] = self.held.get(owner, 0) + n
        else:
            # No caller is refused that would stay within the usual places, or within its share.
            callers = len([1 for held in self.held.values() if held])
            callers += not self.held.get(owner)
            assert sum(self.held.values()) + n > 6
            full = sum(self.held.values()) + n > 11
            assert full or self.held.get(owner, 0) + n > max(1, 6 // callers)

    @rule(owner=st.sampled_from("abcd"))
    def give_back(self, owner: str) -> None:
        if self.held.get(owner):
            self.held[owner] -= 1
            self.shares.give_back(owner)

    @invariant()
    def the_numbers_are_right(self) -> None:
        assert self.shares.taken == sum(self.held.values()) <= 11
        assert all(self.shares.held(owner) == held for owner, held in self.held.items())


TestRandom = Random.TestCase


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_full_queue_tells_when_a_place_becomes_free() -> None:
    clock = Clock()
    turnover = Turnover(2, clock)
    assert (turnover.seconds(3), turnover.retry_after(3)) == (None, 1), "nothing is known"
    turnover.began(1)
    clock.now += 8
    assert turnover.retry_after(1) == 4, "at least so long as the one that runs"
    turnover.ended(1)
    turnover.ended(7)  # it never began
    assert turnover.seconds(3) == 12
    for id in range(2, 40):
        turnover.began(id)
        clock.now += 2
        turnover.ended(id)
    assert 2.9 < (turnover.seconds(3) or 0) < 3.1
    for id in (40, 41):
        turnover.began(id)
    clock.now += 30
    assert turnover.seconds(3) == 45, "long requests after short ones"
    turnover.ended(40)
    assert turnover.seconds(3) == 45, "one of them still runs"
    turnover.ended(41)
    clock.now += 100
    assert 3 < (turnover.seconds(3) or 0) < 25, "nothing runs"


@given(seconds=st.floats(0, 1e6), turns=st.integers(0, 5000), slots=st.integers(1, 256))
def test_retry_after_is_bounded(seconds: float, turns: int, slots: int) -> None:
    clock = Clock()
    turnover = Turnover(slots, clock)
    turnover.began(1)
    clock.now += seconds
    turnover.ended(1)
    assert 1 <= turnover.retry_after(turns) <= 60
