"""The store of responses: limits, chains, threads, kills, full disks, damaged files."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TIMEOUT, together

from offgrid.errors import StoreBusy, StoreFailed
from offgrid.store import database, file
from offgrid.store.database import BUSY_SECONDS, Database
from offgrid.store.file import _SURPLUS, Owner
from offgrid.store.responses import (
    ChainBroken,
    ChainTooLong,
    Item,
    ResponseStore,
    StoredResponse,
)

Make = Callable[..., ResponseStore]
EVERYTHING = 1 << 30


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open stores, by default all with the same file; each is closed at the end."""
    stores: list[ResponseStore] = []

    def open_store(
        max_count: int = 100, max_bytes: int = EVERYTHING, path: Path = tmp_path / "r.sqlite3"
    ) -> ResponseStore:
        stores.append(ResponseStore(path, max_count, max_bytes))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def turn(id: str, previous: str | None = None, filling: str = "") -> StoredResponse:
    """A response with an input item and an output item that contain its id."""
    return StoredResponse(
        id,
        previous,
        b'{"id": "%s"}' % id.encode(),
        (Item(f"msg_in_{id}", f"in {id}{filling}".encode()),),
        (Item(f"msg_out_{id}", f"out {id}".encode()),),
    )


def ids(store: ResponseStore, candidates: list[str]) -> list[str]:
    return [id for id in candidates if store.get(id) is not None]


def test_a_stored_response_is_readable_from_another_store_on_the_file(make: Make) -> None:
    store = make()
    response = StoredResponse(
        "a", None, b"{}", (Item("1", b"x"), Item("2", b"y")), (Item("3", b"z"), Item("1", b"w"))
    )
    store.put(response)
    assert store.get("a") == response
    assert store.get("b") is None
    assert make().get("a") == response
    store.close()
    assert store.get("a") == response


def test_other_users_cannot_read_the_files(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    make(path=folder / "r.sqlite3").put(turn("a"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"r.sqlite3", "r.sqlite3-wal", "r.sqlite3-shm"}
    if os.name != "nt":
        assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir())


def test_a_disabled_store_creates_no_file(make: Make, tmp_path: Path) -> None:
    store = make(max_count=0)
    assert not store.enabled
    with pytest.raises(StoreFailed):
        store.put(turn("a"))
    assert list(tmp_path.iterdir()) == []


def test_a_conversation_is_the_items_of_its_chain(make: Make) -> None:
    store = make()
    for id, previous in (("a", None), ("b", "a"), ("c", "b"), ("fork", "a")):
        store.put(turn(id, previous))
    expected = [b"in a", b"out a", b"in b", b"out b", b"in c", b"out c"]
    assert store.conversation("c", EVERYTHING) == expected
    assert store.conversation("fork", EVERYTHING) == [b"in a", b"out a", b"in fork", b"out fork"]
    size = sum(turn(id).size for id in "abc")
    assert store.conversation("c", size) == expected
    with pytest.raises(ChainTooLong):
        store.conversation("c", size - 1)


def test_a_chain_with_a_gap_is_not_mistaken_for_a_whole_one(make: Make) -> None:
    store = make()
    for id, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.put(turn(id, previous))
    assert store.delete("b")
    assert not store.delete("b")
    with pytest.raises(ChainBroken) as broken:
        store.conversation("c", EVERYTHING)
    assert broken.value.missing == "b"
    with pytest.raises(ChainBroken) as broken:
        store.conversation("nowhere", EVERYTHING)
    assert broken.value.missing == "nowhere"
    assert store.get("c") is not None


def test_items_are_found_by_id_the_latest_first(make: Make) -> None:
    store = make()
    store.put(turn("a"))
    store.put(StoredResponse("b", None, b"{}", (Item("msg_in_a", b"again"),), ()))
    found = store.items(["msg_in_a", "msg_out_a", "msg_none"], EVERYTHING)
    assert found == {"msg_in_a": b"again", "msg_out_a": b"out a"}
    with pytest.raises(ChainTooLong):
        store.items(["msg_in_a", "msg_out_a"], 9)
    store.delete("b")
    assert store.items(["msg_in_a"], EVERYTHING) == {"msg_in_a": b"in a"}


def test_deleted_responses_are_not_in_the_file(make: Make, tmp_path: Path) -> None:
    store = make()
    store.put(turn("a", filling="a secret"))
    store.close()
    assert b"a secret" in (tmp_path / "r.sqlite3").read_bytes()
    store.delete("a")
    store.close()
    assert b"a secret" not in (tmp_path / "r.sqlite3").read_bytes()


# --- limits ---------------------------------------------------------------------------------------


def test_the_oldest_responses_are_evicted_first(make: Make) -> None:
    store = make(max_count=3)
    names = [f"r{number}" for number in range(6)]
    for name in names:
        store.put(turn(name))
    assert ids(store, names) == ["r3", "r4", "r5"]
    assert store.items([f"msg_in_{name}" for name in names], EVERYTHING).keys() == {
        "msg_in_r3", "msg_in_r4", "msg_in_r5",
    }  # fmt: skip


def test_a_continued_conversation_counts_as_recently_used(make: Make) -> None:
    store = make(max_count=4)
    store.put(turn("first"))
    for number in range(3):
        store.put(turn(f"r{number}"))
    store.put(turn("second", "first"))
    assert ids(store, ["first", "r0", "r1", "r2", "second"]) == ["first", "r1", "r2", "second"]
    assert len(store.conversation("second", EVERYTHING)) == 4


def test_bytes_are_limited_too(make: Make) -> None:
    store = make(max_bytes=10_000)
    for name in ("a", "b", "c"):
        store.put(turn(name, filling="x" * 4000))
    assert ids(store, ["a", "b", "c"]) == ["b", "c"]
    with pytest.raises(StoreFailed, match="more than"):
        store.put(turn("d", filling="x" * 10_000))
    assert ids(store, ["b", "c"]) == ["b", "c"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=25),
    st.integers(1, 6),
    st.integers(150, 400),
)
def test_the_store_keeps_the_same_responses_as_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[int, int]],
    max_count: int,
    max_bytes: int,
) -> None:
    """Compare with the simple definition: move the chain to the end, then drop from the front."""
    store = ResponseStore(tmp_path_factory.mktemp("model") / "r", max_count, max_bytes)
    kept: list[StoredResponse] = []
    try:
        for number, (previous, filling) in enumerate(turns):
            continued = f"r{previous}" if previous < number else "unknown"
            response = turn(f"r{number}", continued, "x" * filling)
            store.put(response)
            chain, wanted = [response], response.previous
            while found := next((r for r in kept if r.id == wanted), None):
                chain.insert(0, found)
                wanted = found.previous
            kept = [r for r in kept if r not in chain] + chain
            while len(kept) > max_count or sum(r.size for r in kept) > max_bytes:
                del kept[0]
            names = [f"r{n}" for n in range(number + 1)]
            assert ids(store, names) == sorted((r.id for r in kept), key=names.index)
    finally:
        store.close()


def test_no_caller_pushes_out_what_others_store(make: Make) -> None:
    """While the file is full, what is deleted belongs to callers with more than their share."""
    store = make(max_count=6)
    few, many = store.of(Owner("few", shared=False)), store.of(Owner("many", shared=False))
    few.put(turn("f0"))
    few.put(turn("f1"))
    for number in range(9):
        many.put(turn(f"m{number}"))
    names = [f"m{number}" for number in range(9)]
    assert ids(few, ["f0", "f1"]) == ["f0", "f1"]
    assert ids(many, names) == ["m5", "m6", "m7", "m8"]
    for number in range(2, 6):  # up to its share, and then it pushes out what it stored itself
        few.put(turn(f"f{number}"))
    assert ids(few, [f"f{number}" for number in range(6)]) == ["f3", "f4", "f5"]
    assert ids(many, names) == ["m6", "m7", "m8"]


def test_no_caller_pushes_out_the_bytes_of_others(make: Make) -> None:
    store = make(max_bytes=10_000)
    few, many = store.of(Owner("few", shared=False)), store.of(Owner("many", shared=False))
    few.put(turn("small"))
    few.conversations.create("conv", b"{}", [Item("msg", b"x" * 2000)])
    for number in range(20):
        many.put(turn(f"m{number}", filling="x" * 1500))
        # What was stored last is there, whatever it takes.
        assert ids(many, [f"m{number}"]) == [f"m{number}"]
    assert ids(few, ["small"]) == ["small"]
    assert few.conversations.get("conv") is not None
    many.put(turn("large", filling="x" * 9900))
    assert ids(many, ["large"]) == ["large"]


@pytest.mark.slow
def test_many_responses_are_evicted_a_hundredth_at_a_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_MANY", 200)
    store = make(max_count=200)
    names = [f"r{number}" for number in range(204)]
    for name in names:
        store.put(turn(name))
        found = len(ids(store, names))
        assert found <= 200
    assert ids(store, names) == names[-198:]
    small = make(max_bytes=sum(turn(name).size for name in names[-198:]))
    monkeypatch.setattr(file, "_MANY", 1)
    small.put(turn("large", filling="x" * (small._file.max_bytes - 40)))
    assert ids(small, ["large"]) == ["large"]


def test_eviction_reads_no_bodies(make: Make, tmp_path: Path) -> None:
    make().put(turn("r"))
    with contextlib.closing(sqlite3.connect(tmp_path / "r.sqlite3")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {_SURPLUS}", (1, 1)).fetchall()
    scans = [row[-1] for row in plan if "responses" in row[-1] or "conversations" in row[-1]]
    assert len(scans) == 2
    assert all("COVERING INDEX" in scan for scan in scans), scans


# --- failures -------------------------------------------------------------------------------------


def test_many_threads_and_two_stores_on_one_file(make: Make) -> None:
    stores = [make(max_count=10_000), make(max_count=10_000)]

    def work(thread: int) -> Callable[[], None]:
        def run() -> None:
            store, previous = stores[thread % 2], None
            for number in range(15):
                store.put(turn(f"{thread}.{number}", previous))
                previous = f"{thread}.{number}"
                assert len(store.conversation(previous, EVERYTHING)) == 2 * (number + 1)

        return run

    together([work(thread) for thread in range(6)])
    for thread in range(6):
        assert len(stores[0].conversation(f"{thread}.14", EVERYTHING)) == 30


def test_a_kill_loses_nothing_that_was_stored(make: Make, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, itertools\n"
        "from offgrid.store.responses import *\n"
        "store = ResponseStore(pathlib.Path(sys.argv[1]), 10**6, 1 << 30)\n"
        "for n in itertools.count():\n"
        "    store.put(StoredResponse(f'r{n}', f'r{n - 1}' if n else None, b'{}',\n"
        "                             (Item('i', b'x' * 3000),), (Item('o', b'y'),)))\n"
        "    print(f'r{n}', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "r.sqlite3")],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert child.stdout is not None
    stored = [child.stdout.readline().strip() for _ in range(40)]
    child.send_signal(signal.SIGKILL)
    stored += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait(TIMEOUT)
    child.stdout.close()
    assert len(stored) >= 40
    assert len(make().conversation(stored[-1], EVERYTHING)) == 2 * len(stored)


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
def test_a_full_disk_loses_nothing_that_was_stored(make: Make, tmp_path: Path) -> None:
    """A limit on the size of the process's files acts on SQLite like a full disk."""
    program = (
        "import sys, pathlib, resource, signal\n"
        "from offgrid.store.responses import *\n"
        "from offgrid.errors import StoreFailed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "store = ResponseStore(pathlib.Path(sys.argv[1]), 10**6, 1 << 30)\n"
        "n = 0\n"
        "try:\n"
        "    for n in range(1000):\n"
        "        store.put(StoredResponse(f'r{n}', None, b'{}', (Item('i', b'x' * 9000),), ()))\n"
        "except StoreFailed:\n"
        "    missing = [m for m in range(n) if store.get(f'r{m}') is None]\n"
        "    print(n, missing, store.get(f'r{n}'))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "r.sqlite3")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
        cwd="/",
    )
    count, _, rest = result.stdout.partition(" ")
    assert int(count) > 3
    assert rest.strip() == "[] None"
    store = make()
    store.put(turn("later"))
    assert ids(store, ["r0", f"r{int(count) - 1}", "later"]) == [
        "r0", f"r{int(count) - 1}", "later",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["no database", "a torn page"])
def test_a_damaged_file_is_set_aside(
    make: Make, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite3"
    if damage == "no database":
        path.write_bytes(b"This is a letter, not a database." * 200)
    else:
        store = make()
        for number in range(50):
            store.put(turn(f"r{number}", filling="x" * 500))
        store.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
    content = path.read_bytes()
    with caplog.at_level(logging.ERROR, "offgrid"):
        store = make()
        store.put(turn("new"))
    assert "set aside" in caplog.text
    assert store.get("new") == turn("new")
    assert path.with_name("r.sqlite3.damaged").read_bytes()[4096:] == content[4096:]


def test_an_unusable_file_is_an_error_until_it_becomes_usable(make: Make, tmp_path: Path) -> None:
    blocker = tmp_path / "folder"
    blocker.write_text("a file where the folder should be")
    store = make(path=blocker / "r.sqlite3")
    for _ in range(2):
        with pytest.raises(StoreFailed):
            store.put(turn("a"))
        with pytest.raises(StoreFailed):
            store.get("a")
    blocker.unlink()
    store.put(turn("a"))
    assert store.get("a") == turn("a")


def test_a_file_of_a_later_version_is_not_changed(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreFailed, match="later version"):
        make().put(turn("a"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another program; tests begin and end its transactions explicitly."""
    connection = sqlite3.connect(tmp_path / "r.sqlite3", isolation_level=None, timeout=TIMEOUT)
    yield connection
    connection.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that stores would wait for a locked file; ``sleep`` returns at once."""
    taken: list[float] = []
    monkeypatch.setattr(database, "time", SimpleNamespace(sleep=taken.append))
    return taken


def test_a_store_waits_only_briefly_for_a_locked_file(
    make: Make, other: sqlite3.Connection, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    store = make()
    store.put(turn("a"))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusy) as busy:
        store.put(turn("b"))
    assert (busy.value.status, busy.value.retry_after) == (503, 1)
    assert BUSY_SECONDS <= sum(pauses) < BUSY_SECONDS + 0.1
    # The store now knows that the file is locked, and does not wait again until it is free.
    pauses.clear()
    with pytest.raises(StoreBusy):
        store.delete("a")
    assert pauses == []
    # Readers need not wait for a writer.
    assert ids(store, ["a", "b"]) == ["a"]
    assert store.conversation("a", EVERYTHING) == [b"in a", b"out a"]
    other.execute("ROLLBACK")
    store.put(turn("b"))
    assert ids(store, ["a", "b"]) == ["a", "b"]
    assert caplog.text.count("is locked by another process") == 1
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusy):
        store.put(turn("c"))
    assert pauses


def test_a_file_that_is_unlocked_in_time_is_used(
    make: Make, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    store.put(turn("a"))
    other.execute("BEGIN IMMEDIATE")
    unlock = SimpleNamespace(sleep=lambda seconds: other.execute("ROLLBACK"))
    monkeypatch.setattr(database, "time", unlock)
    store.put(turn("b"))
    assert ids(store, ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
def test_threads_wait_for_a_locked_file_at_the_same_time(
    make: Make, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    """The first pause of each thread ends when all threads have reached theirs."""
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    barrier = threading.Barrier(8)
    waiting = threading.local()

    def pause(seconds: float) -> None:
        if not hasattr(waiting, "begun"):
            waiting.begun = True
            barrier.wait(TIMEOUT)

    monkeypatch.setattr(database, "time", SimpleNamespace(sleep=pause))
    store = make()

    def work(name: str) -> type[BaseException] | None:
        try:
            store.put(turn(name)) if write else store.get(name)
        except StoreBusy as ex:
            return type(ex)
        return None

    names = [f"r{number}" for number in range(8)]
    assert together([lambda name=name: work(name) for name in names]) == [StoreBusy] * 8
    other.execute("ROLLBACK")
    other.close()
    store.put(turn("later"))
    assert ids(store, ["later"]) == ["later"]


# --- files that are removed while they are used ---------------------------------------------------


REMOVED = ["r.sqlite3"], ["r.sqlite3", "r.sqlite3-wal", "r.sqlite3-shm"]
"""Files that a user may remove without knowing that they belong together."""


@pytest.mark.parametrize("names", REMOVED, ids=["the file", "all files"])
def test_a_removed_file_is_replaced_by_an_empty_one(
    make: Make, tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = make()
    store.put(turn("before"))
    for name in names:
        (tmp_path / name).unlink()
    store.put(turn("after"))
    assert "was removed or replaced" in caplog.text
    assert ids(store, ["before", "after"]) == ["after"]
    store.put(turn("later", "after"))
    store.close()
    # Responses reported as stored are in the new file of that name.
    assert ids(make(), ["before", "after", "later"]) == ["after", "later"]


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
def test_the_companions_of_the_file_may_be_removed(
    make: Make, tmp_path: Path, suffixes: list[str]
) -> None:
    store = make()
    store.put(turn("before"))
    for suffix in suffixes:
        (tmp_path / f"r.sqlite3{suffix}").unlink()
    assert ids(store, ["before"]) == ["before"]
    store.put(turn("after"))
    store.close()
    assert ids(make(), ["before", "after"]) == ["before", "after"]


def test_a_file_may_be_replaced(make: Make, tmp_path: Path) -> None:
    """Replaced by an older copy: the companions of the previous file must not be mixed with it."""
    other = make(path=tmp_path / "other")
    other.put(turn("kept"))
    other.close()
    store = make()
    for number in range(20):
        store.put(turn(f"r{number}", filling="x" * 5000))
    os.replace(tmp_path / "other", tmp_path / "r.sqlite3")
    assert ids(store, ["r0", "r19", "kept"]) == ["kept"]
    store.put(turn("after", "kept"))
    store.close()
    again = make()
    assert again.conversation("after", EVERYTHING) == [
        b"in kept", b"out kept", b"in after", b"out after",
    ]  # fmt: skip


def test_a_file_that_is_removed_in_the_middle_of_a_write(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed after the check of the file, before the commit: the write is repeated."""
    store = make()
    store.put(turn("before"))
    run, times = Database.run, []

    def run_after_removal(self: Database, work: Callable[[Any], Any], *, write: bool) -> Any:
        def remove_first(connection: sqlite3.Connection) -> Any:
            if not times:
                (tmp_path / "r.sqlite3").unlink()
            times.append(1)
            return work(connection)

        return run(self, remove_first, write=write)

    monkeypatch.setattr(Database, "run", run_after_removal)
    store.put(turn("after"))
    assert len(times) == 2
    store.close()
    assert ids(make(), ["before", "after"]) == ["after"]


def test_threads_use_a_file_that_is_removed_again_and_again(make: Make, tmp_path: Path) -> None:
    store = make()

    def write(thread: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(20):
                store.put(turn(f"{thread}.{number}"))
                if thread == 0 and number % 4 == 0:
                    (tmp_path / "r.sqlite3").unlink()
                store.get(f"{thread}.{number}")

        return run

    together([write(thread) for thread in range(4)])
    store.put(turn("last"))
    store.close()
    assert ids(make(), ["last"]) == ["last"]


def test_an_error_contains_no_path(make: Make, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    (tmp_path / "r.sqlite3").mkdir()
    for path in (tmp_path / "folder" / "r.sqlite3", tmp_path / "r.sqlite3"):
        with pytest.raises(StoreFailed) as failed:
            make(path=path).get("a")
        assert str(tmp_path) not in failed.value.message
