"""Five wrong codes lock the pairing for ten minutes, whatever else happens meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from pairings import Side, wrong

from offgrid.errors import RequestError, StoreFailed
from offgrid.peers import attempts
from offgrid.peers.attempts import FILE, MOST, SECONDS
from offgrid.peers.pairing import PairingClosed, PairingFailed, PairingLocked


@pytest.fixture
def near(tmp_path: Path) -> Side:
    """Where codes are typed."""
    return Side(tmp_path / "near", "near")


@pytest.fixture
def far(tmp_path: Path) -> Side:
    """What shows them."""
    return Side(tmp_path / "far", "far")


def type_wrong(near: Side, far: Side, times: int) -> None:
    code, _ = far.desk.open()
    for _ in range(times):
        with pytest.raises(PairingFailed):
            near.try_code(far, wrong(code))


def assert_locked(near: Side, far: Side) -> None:
    assert far.desk.state().locked_for > 0
    with pytest.raises(PairingLocked, match="minutes"):
        far.desk.open()
    with pytest.raises(PairingLocked):
        near.try_code(far, "00000000")
    assert not far.is_open


def test_five_wrong_codes_lock_the_pairing(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST)
    assert far.desk.state().state == "locked"
    assert_locked(near, far)
    far.times.go_on(SECONDS - 1)
    assert_locked(near, far)
    far.times.go_on(1)
    assert far.desk.state().locked_for == 0
    near.try_code(far, far.desk.open()[0])
    assert far.knows(near)


def test_the_lock_tells_how_long_it_lasts(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST)
    far.times.go_on(SECONDS - 61)
    with pytest.raises(PairingLocked, match="in 2 minutes") as caught:
        far.desk.open()
    assert caught.value.retry_after == 61


def test_a_new_code_resets_nothing(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST - 1)
    far.desk.close()
    type_wrong(near, far, 1)
    assert_locked(near, far)


def test_a_pairing_resets_nothing(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST - 1)
    near.try_code(far, far.desk.open()[0])
    type_wrong(near, far, 1)
    assert_locked(near, far)


def test_wrong_codes_are_forgotten_after_ten_minutes(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST - 1)
    far.times.go_on(SECONDS)
    type_wrong(near, far, MOST - 1)
    far.desk.open()


def test_a_restart_resets_nothing(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST - 1)
    far.times.monotonic = 0.0  # the machine was restarted, too
    far.restart()
    type_wrong(near, far, 1)
    assert_locked(near, far)
    far.times.wall += SECONDS / 2
    far.times.monotonic = 5.0
    far.restart()
    assert_locked(near, far)
    far.times.go_on(SECONDS / 2)
    far.desk.open()


def test_a_clock_that_is_set_back_locks_for_ten_minutes_at_most(near: Side, far: Side) -> None:
    type_wrong(near, far, MOST)
    far.times.wall -= 100 * SECONDS
    far.restart()
    assert_locked(near, far)
    far.times.go_on(SECONDS)
    far.desk.open()


@pytest.mark.parametrize("content", [b"", b"{", b'{"wrong":["x"]}', b"\xff", b'{"wrong":[1e999]}'])
def test_a_damaged_file_locks_the_pairing(near: Side, far: Side, content: bytes) -> None:
    """Nothing says that no codes were tried. The lock ends by itself."""
    (far.folder / FILE).write_bytes(content)
    far.restart()
    assert_locked(near, far)
    far.restart()
    assert_locked(near, far)
    far.times.go_on(SECONDS)
    far.desk.open()
    far.restart()
    far.desk.open()


def test_the_file_is_private(near: Side, far: Side) -> None:
    type_wrong(near, far, 1)
    assert stat.S_IMODE((far.folder / FILE).stat().st_mode) == 0o600


def test_a_wrong_code_that_cannot_be_counted_on_disk_closes_the_code(
    near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a restart would give five more attempts."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    code, _ = far.desk.open()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreFailed, match="No space"):
        near.try_code(far, wrong(code))
    with pytest.raises(PairingClosed):
        near.try_code(far, code)
    assert not far.book.all()


def test_a_wrong_code_counts_before_it_is_answered(
    near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at this moment gives no answer, and no free attempt."""
    code, _ = far.desk.open()
    begun = near.initiator(far, wrong(code))
    proof = begun.prove(far.desk.answer(begun.hello, "10.0.0.9"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("offgrid.peers.desk.log.warning", killed)
    with pytest.raises(KeyboardInterrupt):
        far.desk.confirm(proof, "10.0.0.9")
    monkeypatch.undo()
    far.restart()
    assert far.desk._attempts.left == MOST - 1


def test_attempts_at_once_are_counted_one_by_one(
    near: Side, far: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four wrong proofs at the same time leave one attempt, not four."""
    monkeypatch.setattr(attempts, "MOST", 4)
    code, _ = far.desk.open()
    begun = [near.initiator(far, wrong(code)) for _ in range(4)]
    proofs = [
        one.prove(far.desk.answer(one.hello, f"10.0.0.{number // 2}"))
        for number, one in enumerate(begun)
    ]
    together, seen = threading.Barrier(4), []

    def confirm(proof: bytes) -> None:
        together.wait(60)
        try:
            far.desk.confirm(proof, "10.0.0.9")
        except RequestError as ex:
            seen.append(type(ex))

    threads = [threading.Thread(target=confirm, args=(proof,)) for proof in proofs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [PairingFailed] * 4
    with pytest.raises(PairingLocked):
        far.desk.open()
