"""Which requests a crash of the worker is blamed on."""

from __future__ import annotations

import pytest

from offgrid.engine.client.blame import REFUSED_FOR, Blame


class Clock:
    """A clock that a test moves forward."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blame(clock: Clock) -> Blame:
    return Blame(clock)


def prefill(blame: Blame, *keys: str) -> None:
    """Make the worker compute the prompts of requests with ids from 1."""
    for number, key in enumerate(keys, 1):
        blame.enter(number, key)
        blame.tokenising(number, 0)
        blame.tokenised(number)
        blame.prefilling(number)


def test_one_crash_refuses_nothing_however_many_requests_had_the_prompt(blame: Blame) -> None:
    prefill(blame, "a", "a", "a")
    assert blame.crashed() == {"a"}
    assert blame.suspected("a")
    assert not blame.refused("a")


def test_a_prompt_with_two_crashes_is_refused_until_one_is_forgotten(
    blame: Blame, clock: Clock
) -> None:
    for _ in range(2):
        prefill(blame, "a")
        blame.crashed()
        clock.now += 10
    assert blame.refused("a")
    clock.now = REFUSED_FOR - 0.1
    assert blame.refused("a")
    clock.now = REFUSED_FOR
    assert not blame.refused("a")
    assert blame.suspected("a")
    clock.now = REFUSED_FOR + 10
    assert not blame.suspected("a")


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("a", "a", "a"),
        ("ab", "ac", "a"),
        ("ab", "a", "a"),
        ("ab", "ab", ""),
        ("ab", "cd", ""),
        ("a", "b", ""),
        ("", "a", ""),
    ],
)
def test_the_prompt_common_to_two_crashes_is_refused(
    blame: Blame, first: str, second: str, refused: str
) -> None:
    for keys in (first, second):
        prefill(blame, *keys)
        blame.crashed()
    assert {key for key in "abcd" if blame.refused(key)} == set(refused)


def test_only_prompts_being_computed_are_suspected(blame: Blame) -> None:
    blame.enter(1, "waits for the tokeniser")
    blame.enter(2, "tokenised")
    blame.tokenising(2, 0)
    blame.tokenised(2)
    blame.enter(3, "runs")
    blame.prefilling(3)
    blame.harmless(3)
    blame.enter(4, "is over")
    blame.prefilling(4)
    blame.over(4)
    blame.enter(5, "grammar")
    blame.tokenising(5, 1)
    blame.enter(6, "text")
    blame.tokenising(6, 0)
    assert blame.crashed() == {"grammar", "text"}
    assert blame.computing() == set()  # the next worker starts without prompts


def test_a_thread_that_begins_a_text_has_finished_the_last_one(blame: Blame) -> None:
    for number in (1, 2):
        blame.enter(number, str(number))
        blame.tokenising(number, 0)
    assert blame.computing() == {"2"}
    blame.tokenising(0, 0)  # an unknown id: its request was cancelled
    assert blame.computing() == set()


def test_a_prompt_computed_without_harm_is_acquitted(blame: Blame) -> None:
    prefill(blame, "a", "b")
    blame.crashed()
    prefill(blame, "b")
    blame.harmless(1)
    assert not blame.suspected("b")
    assert blame.suspected("a")
    prefill(blame, "b")
    blame.crashed()
    assert not blame.refused("b")


def test_a_client_that_leaves_does_not_take_the_blame_with_it(blame: Blame, clock: Clock) -> None:
    prefill(blame, "a")
    blame.left(1, ping=7)
    clock.now = 2.0
    blame.pong(7, 0.0)  # sent before the worker knew that the client had left
    blame.pong(8, 3.0)  # the worker knows, but is still in the step that computes the prompt
    assert blame.computing() == {"a"}
    blame.pong(9, 1.0)  # that step is over
    assert blame.computing() == set()
    prefill(blame, "b")
    blame.tokenising(1, 0)
    blame.left(1, ping=9)
    clock.now = 9.0
    blame.pong(11, 0.0)  # tokenising a text is never cut short
    assert blame.computing() == {"b"}


def test_a_worker_that_has_lost_another_machine_blames_no_prompt(blame: Blame) -> None:
    for _ in range(3):
        prefill(blame, "a")
        assert blame.crashed(innocent=True) == set()
        assert blame.computing() == set()
    assert not blame.suspected("a")
    assert not blame.refused("a")
