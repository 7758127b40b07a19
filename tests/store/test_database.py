"""One SQLite file of several programs: what becomes of it when it is found to be damaged."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from offgrid.store.database import Database, Locked, files_aside

Make = Callable[..., Database]
PAGE = 4096
ROWS = 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.sqlite3"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """Open the file, as servers do."""
    opened: list[Database] = []

    def make(kind: type[Database] = Database) -> Database:
        opened.append(kind(path, prepare))
        return opened[-1]

    yield make
    for database in opened:
        database.close()


def prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    for table in ("old", "new"):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (text TEXT)")


def write(database: Database, table: str, *texts: str) -> None:
    rows = [(text,) for text in texts]
    database.run(lambda c: c.executemany(f"INSERT INTO {table} VALUES (?)", rows), write=True)


def read(database: Database, table: str) -> list[str]:
    def work(connection: sqlite3.Connection) -> list[str]:
        return [text for (text,) in connection.execute(f"SELECT text FROM {table}")]

    return database.run(work, write=False)


def rows_in(file: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [text for (text,) in connection.execute(f"SELECT text FROM {table}")]


def damage(path: Path, table: str = "old") -> None:
    """Overwrite the first page of a table; the file is closed."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)


def test_each_damaged_file_is_kept(make: Make, path: Path) -> None:
    database = make()
    for text in ("first", "second", "third"):
        write(database, "old", "x")
        write(database, "new", text)
        database.close()
        damage(path)
        assert read(database, "old") == []
    database.close()
    names = ["d.sqlite3.damaged", "d.sqlite3.damaged-2", "d.sqlite3.damaged-3"]
    assert [file.name for file in files_aside(path)] == names
    kept = [rows_in(path.with_name(name), "new") for name in names]
    assert kept == [["first"], ["second"], ["third"]]


def test_two_servers_find_the_same_damage(make: Make, path: Path) -> None:
    """Both decide to set the file aside; the second one leaves the new file of the first alone."""
    first = make()
    write(first, "old", "x")
    write(first, "new", "before")
    first.close()
    damage(path)

    class Slower(Database):
        def _renew(self, generation: int, *more: Any) -> None:
            if more and not files_aside(path):
                assert read(first, "old") == []
                write(first, "new", "after")
            super()._renew(generation, *more)

    second = make(Slower)
    assert read(second, "old") == []
    assert read(second, "new") == ["after"]
    assert rows_in(path.with_name("d.sqlite3.damaged"), "new") == ["before"]
    assert not path.with_name("d.sqlite3.damaged-2").exists()


def test_what_another_server_has_stored_is_set_aside_too(make: Make, path: Path) -> None:
    """It is in the file -wal only, because that server has the file open."""
    other, database = make(), make()
    write(other, "old", "x")
    other.close()
    damage(path)
    stored = [f"text {number}" for number in range(ROWS)]
    write(other, "new", *stored)
    assert read(database, "new") == stored
    assert read(database, "old") == []
    aside = path.with_name("d.sqlite3.damaged")
    assert rows_in(aside, "new") == stored
    # The other server goes on with the new file, and takes nothing with it when it ends.
    write(other, "new", "later")
    assert read(database, "new") == ["later"]
    other.close()
    assert rows_in(aside, "new") == stored
    assert read(database, "new") == ["later"]


def test_only_files_that_were_set_aside(path: Path) -> None:
    ends = ("", "-wal", "-shm", "-2", "-2-wal", "-2-shm", "-10")
    names = sorted(f"d.sqlite3.damaged{end}" for end in ends)
    others = ("d.sqlite3", "d.sqlite3-wal", "d.sqlite3.damaged-x", "d.sqlite3.damaged.txt",
              "dXsqlite3.damaged", "my-d.sqlite3.damaged")  # fmt: skip
    for name in (*names, *others):
        path.with_name(name).touch()
    assert [file.name for file in files_aside(path)] == names
    assert files_aside(path.parent / "none" / "d.sqlite3") == []


@pytest.mark.skipif(sys.platform == "win32", reason="the folder needs no lock there")
def test_another_server_sets_a_file_aside_now(make: Make, path: Path) -> None:
    import fcntl

    database = make()
    write(database, "old", "x")
    database.close()
    damage(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(Locked):
            read(database, "old")
    finally:
        os.close(descriptor)
    assert files_aside(path) == []
    assert read(database, "old") == []
    assert len(files_aside(path)) == 1


@pytest.mark.parametrize("is_mended", [True, False])
def test_damage_that_looks_like_a_lack_of_memory(path: Path, is_mended: bool) -> None:
    """SQLite asks for gigabytes if the damage is where the length of something was."""
    mended = list[bool]()

    def mend(connection: sqlite3.Connection) -> bool:
        mended.append(True)
        return is_mended

    def work(connection: sqlite3.Connection) -> str:
        if not (mended and is_mended):
            raise MemoryError
        return "read"

    with closing(Database(path, prepare, mend=mend)) as database:
        if is_mended:
            assert database.run(work, write=False) == "read"
        else:
            with pytest.raises(MemoryError):
                database.run(work, write=False)
    assert mended == [True]
    assert files_aside(path) == []
