"""Saved prefixes in memory and on disk: what is kept, moved, replaced and lost. Without a model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offgrid.engine.saved_prefixes import saved_files
from offgrid.engine.worker.cache import tiers as module
from offgrid.engine.worker.cache.files import PrefixFiles
from offgrid.engine.worker.cache.tiers import Tiers

SIZE = 1000
KEY = bytes(32)
FOREVER = time.monotonic() + 86_400


def tokens_of(number: int, length: int = 200) -> np.ndarray:
    return np.arange(length, dtype=np.int32) + 1000 * number


def state_of(number: int) -> np.ndarray:
    return np.full(SIZE, number, dtype=np.uint8)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Tiers]]:
    made: list[Tiers] = []

    def tiers(memory: int = 0, *, disk: bool = False, can_cut: bool = True) -> Tiers:
        files = PrefixFiles(tmp_path, KEY, 1 << 30) if disk else None
        made.append(Tiers(can_cut, memory, files))
        return made[-1]

    yield tiers
    for one in made:
        one.close()


def save(tiers: Tiers, number: int, length: int = 200, **how: bool) -> None:
    tiers.save(tokens_of(number, length), length, state_of(number), **how)


def restored(tiers: Tiers, tokens: np.ndarray, above: int = 0) -> tuple[int, int] | None:
    """The number of the state that is found for a prompt, and the length of the prefix."""
    fetch = tiers.find(tokens, lambda length: length, above)
    if fetch is None:
        return None
    fetch.wait(60)
    assert fetch.ready
    return None if fetch.state is None else (int(fetch.state[0]), fetch.length)


def settled(tiers: Tiers) -> Tiers:
    """Wait until what is to be written has been written."""
    tiers.finish_writing(FOREVER)
    return tiers


def test_memory_keeps_the_most_recently_used(make: Callable[..., Tiers]) -> None:
    tiers = make(3 * SIZE)
    for number in (1, 2, 3):
        save(tiers, number)
    assert restored(tiers, tokens_of(1)) == (1, 200)
    save(tiers, 4)
    assert restored(tiers, tokens_of(2)) is None
    assert [restored(tiers, tokens_of(number)) for number in (1, 3, 4)] == [
        (1, 200), (3, 200), (4, 200),
    ]  # fmt: skip
    assert tiers.held_bytes == 3 * SIZE


def test_what_memory_has_no_room_for_goes_to_disk(make: Callable[..., Tiers]) -> None:
    tiers = make(2 * SIZE, disk=True)
    for number in range(1, 6):
        save(tiers, number)
    settled(tiers)
    assert tiers.held_bytes == 2 * SIZE
    for number in range(1, 6):
        assert restored(tiers, tokens_of(number)) == (number, 200)
    after_restart = make(disk=True)
    found = [restored(after_restart, tokens_of(number)) for number in range(1, 6)]
    assert found == [(1, 200), (2, 200), (3, 200), None, None]


def test_the_end_writes_what_is_in_memory(make: Callable[..., Tiers], tmp_path: Path) -> None:
    tiers = make(9 * SIZE, disk=True)
    for number in (1, 2, 3):
        save(tiers, number)
    assert saved_files(tmp_path) == []
    tiers.write_all(until=time.monotonic() - 1)  # no time is left
    assert saved_files(tmp_path) == []
    tiers.write_all(FOREVER)
    after_restart = make(disk=True)
    for number in (1, 2, 3):
        assert restored(after_restart, tokens_of(number)) == (number, 200)


def test_the_end_writes_nothing_twice(
    make: Callable[..., Tiers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written when the end begins may be on disk before its turn comes."""
    tiers, begun = make(9 * SIZE, disk=True), threading.Event()
    write = PrefixFiles.write

    def write_later(files: PrefixFiles, *prefix: Any) -> Path | None:
        assert begun.wait(60)
        return write(files, *prefix)

    def monotonic() -> float:
        begun.set()
        return time.monotonic()

    monkeypatch.setattr(PrefixFiles, "write", write_later)
    save(tiers, 1, to_disk=True)
    save(tiers, 2)
    with monkeypatch.context() as patched:
        patched.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
        tiers.write_all(FOREVER)
    assert tiers.held_bytes == 0
    assert len(saved_files(tmp_path)) == 2
    assert [restored(tiers, tokens_of(number)) for number in (1, 2)] == [(1, 200), (2, 200)]


def test_the_next_turn_replaces_the_one_before(make: Callable[..., Tiers], tmp_path: Path) -> None:
    tiers = make(9 * SIZE, disk=True)
    save(tiers, 1, 200)
    save(tiers, 1, 300)
    assert tiers.held_bytes == SIZE
    tiers.write_all(FOREVER)
    save(tiers, 1, 400, to_disk=True)
    settled(tiers)
    assert len(saved_files(tmp_path)) == 1
    assert restored(make(disk=True), tokens_of(1, 500)) == (1, 400)
    save(tiers, 1, 400, to_disk=True)  # the same file again
    settled(tiers)
    assert restored(make(disk=True), tokens_of(1, 500)) == (1, 400)


def test_without_cuts_only_whole_prefixes_are_used(make: Callable[..., Tiers]) -> None:
    tiers = make(9 * SIZE, can_cut=False)
    save(tiers, 1, 200)
    save(tiers, 1, 300)
    assert restored(tiers, tokens_of(1, 250)) == (1, 200)
    assert restored(tiers, tokens_of(1, 350)) == (1, 300)
    assert restored(tiers, tokens_of(1, 190)) is None


def test_nothing_is_fetched_for_a_few_tokens(make: Callable[..., Tiers]) -> None:
    tiers = make(9 * SIZE)
    save(tiers, 1)
    assert restored(tiers, tokens_of(1), above=190) is None
    assert restored(tiers, tokens_of(1), above=100) == (1, 200)
    assert restored(tiers, tokens_of(2)) is None


def test_what_is_worth_saving(make: Callable[..., Tiers]) -> None:
    tiers = make(9 * SIZE, disk=True)
    assert tiers.wants(tokens_of(1), SIZE)
    assert not tiers.wants(tokens_of(1, 100), SIZE)  # too short
    image = tokens_of(1)
    image[150] = -5
    assert not tiers.wants(image, SIZE)
    save(tiers, 1)
    assert not tiers.wants(tokens_of(1), SIZE)
    assert not tiers.wants(tokens_of(1, 210), SIZE)  # hardly anything is new
    assert tiers.wants(tokens_of(1, 260), SIZE)
    # On disk, a conversation is written again when enough of it is new, or at the end.
    assert tiers.wants_on_disk(tokens_of(1, 260), SIZE)
    tiers.write_all(FOREVER)
    assert not tiers.wants_on_disk(tokens_of(1, 260), SIZE)
    assert tiers.wants_on_disk(tokens_of(1, 260), SIZE, last=True)
    assert tiers.wants_on_disk(tokens_of(1, 330), SIZE)
    only_memory = make(SIZE)
    assert not only_memory.wants(tokens_of(1), SIZE + 1)
    assert not only_memory.wants_on_disk(tokens_of(1), SIZE, last=True)


def test_a_damaged_file_is_forgotten(make: Callable[..., Tiers], tmp_path: Path) -> None:
    first = make(disk=True)
    save(first, 1)
    settled(first)
    tiers = make(disk=True)
    (file,) = saved_files(tmp_path)
    content = bytearray(file.path.read_bytes())
    content[-40] ^= 1
    file.path.write_bytes(content)
    fetch = tiers.find(tokens_of(1), lambda length: length, 0)
    assert fetch is not None
    tiers.wait(60)
    assert fetch.lost
    assert saved_files(tmp_path) == []
    assert tiers.find(tokens_of(1), lambda length: length, 0) is None
    assert tiers.wants(tokens_of(1), SIZE)


def test_two_servers_share_a_folder(make: Callable[..., Tiers], tmp_path: Path) -> None:
    """What one of them deletes is absent for the other."""
    one, two = make(disk=True), make(disk=True)
    settled(one)
    for tiers, number in ((one, 2), (two, 3)):
        save(tiers, number)
        settled(tiers)
    third = make(disk=True)
    assert [restored(third, tokens_of(n)) for n in (2, 3)] == [(2, 200), (3, 200)]
    for file in saved_files(tmp_path):
        file.path.unlink()
    assert restored(two, tokens_of(3)) is None
    assert restored(two, tokens_of(3)) is None
    save(two, 3)
    settled(two)
    assert restored(two, tokens_of(3)) == (3, 200)


def test_no_copy_without_memory_for_it(
    make: Callable[..., Tiers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that go to disk or come from there are in no estimate of memory."""
    tiers = make(disk=True)
    save(tiers, 1)
    settled(tiers)
    monkeypatch.setattr(module, "_SMALL", SIZE - 1)
    monkeypatch.setattr(module, "free_memory", lambda: SIZE - 1)
    assert restored(tiers, tokens_of(1)) is None
    assert not tiers.wants(tokens_of(2), SIZE)
    assert not tiers.wants_on_disk(tokens_of(2), SIZE)
    monkeypatch.setattr(module, "free_memory", lambda: SIZE)
    assert restored(tiers, tokens_of(1)) == (1, 200)
    assert tiers.wants(tokens_of(2), SIZE)
    assert tiers.wants_on_disk(tokens_of(2), SIZE)


def test_a_state_from_disk_is_freed_after_its_use(make: Callable[..., Tiers]) -> None:
    tiers = make(disk=True)
    save(tiers, 1)
    fetch = settled(tiers).find(tokens_of(1), lambda length: length, 0)
    assert fetch is not None
    fetch.wait(60)
    tiers.close()
    tiers._reader.shutdown(wait=True)
    assert fetch.state is not None
    state = weakref.ref(fetch.state)
    del fetch
    gc.collect()
    assert state() is None


def test_what_is_only_in_memory_is_written_in_quiet_moments(
    make: Callable[..., Tiers], tmp_path: Path
) -> None:
    """And stays in memory."""
    tiers = make(3 * SIZE, disk=True)
    for number in (1, 2, 3):
        save(tiers, number)
    written = []
    while tiers.unseen:
        tiers.write_one()
        settled(tiers)
        written.append(len(saved_files(tmp_path)))
    assert written == [1, 2, 3]
    assert tiers.held_bytes == 3 * SIZE
    for file in saved_files(tmp_path):
        file.path.unlink()
    assert [restored(tiers, tokens_of(number)) for number in (1, 2, 3)] == [
        (1, 200), (2, 200), (3, 200),
    ]  # fmt: skip


def test_a_little_more_is_not_written_in_quiet_moments(
    make: Callable[..., Tiers], tmp_path: Path
) -> None:
    tiers = make(3 * SIZE, disk=True)
    save(tiers, 1, 400, to_disk=True)
    settled(tiers)
    save(tiers, 1, 450)
    assert tiers.unseen
    tiers.write_one()
    settled(tiers)
    assert not tiers.unseen
    assert len(saved_files(tmp_path)) == 1
    tiers.write_all(FOREVER)
    assert restored(make(disk=True), tokens_of(1, 450)) == (1, 450)


def test_a_write_that_fails_in_a_quiet_moment_is_not_tried_again(
    make: Callable[..., Tiers], tmp_path: Path
) -> None:
    tiers = make(3 * SIZE, disk=True)
    (tmp_path / KEY.hex()[:32]).write_text("no folder")
    save(tiers, 1)
    tiers.write_one()
    settled(tiers)
    assert not tiers.unseen
    assert restored(tiers, tokens_of(1)) == (1, 200)
