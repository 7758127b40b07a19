"""The totals of the statistics survive a restart, and no fault of their file does harm."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest

from offgrid.caller import Caller
from offgrid.record import Outcome, Record
from offgrid.stats.collected import Stats
from offgrid.stats.totals import MOST_NAMES, OTHERS, Totals, TotalsFile, Used
from offgrid.store.disk import Disk

KEY = Caller("key_1", "clinic", has_key=True)


def ended(stats: Stats, model: str = "m", status: int = 200, caller: Caller = KEY) -> None:
    """A request with one answer ends."""
    record = Record("r", "POST", "/v1/completions", caller=caller, status=status, sink=stats.note)
    record.report(Outcome(model, 10, 4, 3, finished=(("stop", 1),)))
    record.seconds = 0.5
    stats.ended(record)


def test_totals_survive_a_restart(tmp_path: Path) -> None:
    for run in (1, 2, 3):
        stats = Stats(TotalsFile(tmp_path / "a" / "stats.json"), lambda: 100.0)
        stats.load()
        ended(stats)
        total = stats.totals()
        assert total.requests == {("POST", "/v1/completions", "2xx"): run}
        assert total.models == {"m": Used(run, 10 * run, 4 * run, 3 * run)}
        assert total.keys["key_1"].name == "clinic"
        assert total.keys["key_1"].completion == 3 * run
        stats.save()
        with stats.read() as (here, _):
            assert here.models["m"].requests == 1  # /metrics counts from the start of the server


def test_two_servers_add_to_the_same_totals(tmp_path: Path) -> None:
    one, two = (Stats(TotalsFile(tmp_path / "stats.json")) for _ in range(2))
    for stats in (one, two):
        stats.load()
    for stats in (one, two, one):
        ended(stats)
        stats.save()
    assert one.totals().models["m"].requests == 3
    last = Stats(TotalsFile(tmp_path / "stats.json"))
    last.load()
    assert last.totals().models["m"].requests == 3


def saved(path: Path, requests: int) -> bytes:
    """A file with so many requests, from another time."""
    stats = Stats(TotalsFile(path), lambda: 50.0)
    for _ in range(requests):
        ended(stats)
    stats.save()
    return path.read_bytes()


def test_a_restore_under_a_running_server(tmp_path: Path) -> None:
    """It continues from what was restored: its earlier totals do not come back, and what it counts
    is added once, also by the next server."""
    path = tmp_path / "stats.json"
    backup = saved(tmp_path / "backup.json", 100)
    stats = Stats(TotalsFile(path), lambda: 100.0)
    stats.load()
    for _ in range(7):
        ended(stats)
    stats.save()
    put(path, backup)
    stats.save()  # nothing is fresh: the restored totals are shown, and the file stays
    assert stats.totals().models["m"].requests == 100
    assert path.read_bytes() == backup
    ended(stats)
    put(path, backup)
    for _ in range(2):
        stats.save()
        assert stats.totals().models["m"].requests == 101
    later = Stats(TotalsFile(path))
    later.load()
    assert later.totals().models["m"].requests == 101
    assert later.totals().since == 50.0


def put(path: Path, content: bytes) -> None:
    """Restore the file, as ``offgrid restore`` does: by renaming."""
    draft = path.with_name("draft")
    draft.write_bytes(content)
    os.replace(draft, path)


@pytest.mark.parametrize("times", [1, 2, 10])
def test_a_restore_while_a_server_saves(tmp_path: Path, times: int) -> None:
    """The file was read before, and is not written over what was restored meanwhile."""
    path = tmp_path / "stats.json"
    backup = saved(tmp_path / "backup.json", 100)
    restores = times

    class Restoring(Disk):
        """A disk on which a restore ends in the moment of a write."""

        def sync(self, file: FileIO) -> None:
            nonlocal restores
            super().sync(file)
            if restores:
                restores -= 1
                put(path, backup)

    stats = Stats(TotalsFile(path, Restoring()))
    ended(stats)
    stats.save()
    stats.save()  # the next time, if the first one has given up
    stats.save()
    stats.save()
    assert restores == 0
    assert stats.totals().models["m"].requests == 101
    kept = TotalsFile(path).load()
    assert kept is not None
    assert kept.models["m"].requests == 101
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup.json", "stats.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b'{"version": 1}', b"[" * 100_000,
        b'{"version":9,"since":0,"requests":[],"models":{},"keys":{}}',
        b'{"version":1,"since":0,"requests":[{"method":1}],"models":{},"keys":{}}',
        b" " * (9 << 20),
    ],
    ids=["empty", "cut", "binary", "list", "fields", "deep", "later", "types", "large"],
)  # fmt: skip
def test_a_damaged_file_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """The log says so, and the next save replaces the file."""
    path = tmp_path / "stats.json"
    path.write_bytes(content)
    stats = Stats(TotalsFile(path))
    with caplog.at_level(logging.WARNING):
        stats.load()
    assert f"begin anew: {path}" in caplog.text
    ended(stats)
    stats.save()
    again = Stats(TotalsFile(path))
    again.load()
    assert again.totals().models["m"].requests == 1


class FullDisk(Disk):
    """A disk that is full until a test makes room."""

    full = True

    def write(self, file: FileIO, data: bytes | memoryview) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(file, data)


def test_a_full_disk_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old file stays, one line is logged, and the next save has everything."""
    path = tmp_path / "stats.json"
    before = Stats(TotalsFile(path))
    ended(before)
    before.save()
    disk = FullDisk()
    stats = Stats(TotalsFile(path, disk))
    stats.load()
    for _ in range(3):
        ended(stats)
        stats.save()
    assert caplog.text.count("not saved") == 1
    assert stats.totals().models["m"].requests == 4
    kept = TotalsFile(path).load()
    assert kept is not None
    assert kept.models["m"].requests == 1
    disk.full = False
    stats.save()
    kept = TotalsFile(path).load()
    assert kept is not None
    assert kept.models["m"].requests == 4
    assert [file.name for file in tmp_path.iterdir()] == ["stats.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    stats = Stats(TotalsFile(path))
    ended(stats)
    old = os.umask(0)
    try:
        stats.save()
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_requests_nothing_is_written(tmp_path: Path) -> None:
    stats = Stats(TotalsFile(tmp_path / "stats.json"))
    stats.load()
    stats.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("add", "names"),
    [
        (lambda t, n: t.add_model(n, Used(1)), lambda t: t.models),
        (lambda t, n: t.add_key(n, n, Used(1)), lambda t: t.keys),
    ],
    ids=["models", "keys"],
)
def test_names_are_bounded(
    add: Callable[[Totals, str], None], names: Callable[[Totals], dict[str, Used]]
) -> None:
    """E17: however many names come in the course of years, the totals stay small."""
    totals = Totals(0.0)
    for number in range(MOST_NAMES + 500):
        add(totals, f"n{number}")
    assert len(names(totals)) == MOST_NAMES + 1
    assert names(totals)[OTHERS].requests == 500
