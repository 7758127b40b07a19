"""When a worker counts as stopped, and how soon the next one is started."""

from __future__ import annotations

from offgrid.engine.client.patience import Restarts, Silence, Stall


def test_workers_killed_from_outside_are_replaced_soon() -> None:
    restarts = Restarts()
    assert restarts.pause == 0
    for _ in range(20):
        restarts.ended(1.0, computed=False)
        assert 0 < restarts.pause <= 0.5  # never 0: the worker may die by itself repeatedly


def test_the_pause_grows_with_crashes_and_only_with_them() -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(10):
        restarts.ended(1.0, computed=True)
        pauses.append(restarts.pause)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30
    restarts.ended(1.0, computed=False)
    assert restarts.pause == 30
    restarts.ended(3600.0, computed=True)
    assert restarts.pause == 0.5


def test_silence_is_the_time_since_the_last_message() -> None:
    silence = Silence(1.0)
    silence.heard(100.0)
    assert silence.look(100.5) == 0.5
    assert silence.look(101.5) == 1.5
    silence.heard(102.0)
    assert silence.look(102.5) == 0.5


def test_time_in_which_the_server_did_not_run_is_no_silence() -> None:
    """As after Ctrl-Z and fg, which stop both the server and its worker."""
    silence = Silence(1.0)
    silence.heard(100.0)
    assert silence.look(101.0) == 1.0
    assert silence.look(4701.0) == 2.0
    assert silence.look(4702.0) == 3.0


def test_a_message_just_before_or_after_the_server_did_not_run() -> None:
    before, after = Silence(1.0), Silence(1.0)
    for silence in (before, after):
        silence.look(100.0)
    before.heard(100.5)
    assert before.look(4700.5) == 1.0
    after.heard(4700.5)
    assert after.look(4700.75) == 0.25


def test_a_silent_worker_is_noticed_however_late_the_checks_are() -> None:
    silence = Silence(1.0)
    silence.heard(0.0)
    looks = [silence.look(10.0 * i) for i in range(1, 21)]
    assert looks == [float(i) for i in range(1, 21)]
    assert Silence(1.0).look(1.9) == 1.9  # a slightly late check on a busy machine counts fully


def test_two_reports_in_a_row_say_that_a_step_hangs() -> None:
    stall = Stall(60.0)
    for busy_for in (3600.0, 0.1, 3600.0):
        stall.reported(busy_for)
        assert not stall.hangs
    stall.reported(3601.0)
    assert stall.hangs
    assert stall.busy_for == 3601.0
    stall.begin()
    stall.reported(61.0)
    assert not stall.hangs
