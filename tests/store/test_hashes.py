"""Known hashes: when they are used, when they are forgotten, and that they never stop anything."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sticks import content, manifest, put, sha256

from offgrid.cli import main
from offgrid.config import load_settings
from offgrid.store import database, hashes
from offgrid.store.catalogue import Catalogue
from offgrid.store.exports import export_models
from offgrid.store.hashes import Hashes
from offgrid.store.imports import import_models
from offgrid.store.verification import verify

A, B = content(1, 1000), content(2, 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "a.gguf", A)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home/hashes.sqlite3"


@pytest.fixture
def known(file: Path) -> Iterator[Hashes]:
    made = Hashes(file)
    yield made
    made.close()


def test_a_hash_is_computed_once(
    path: Path, known: Hashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known.get(path) is None
    assert known.get_or_compute(path) == sha256(A)

    def never(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(hashes, "hash_of", never)
    assert known.get_or_compute(path) == known.get(path) == sha256(A)
    with pytest.raises(AssertionError):
        known.get_or_compute(path, anew=True)


def test_another_process_knows_it(path: Path, known: Hashes, file: Path) -> None:
    known.put(path, sha256(A))
    other = Hashes(file)
    assert other.get(path) == sha256(A)
    other.close()


@pytest.mark.parametrize("change", ["size", "time", "in place", "another file", "gone"])
def test_a_changed_file_is_unknown(path: Path, known: Hashes, change: str) -> None:
    """Also if its size and modification time are restored."""
    known.put(path, sha256(A))
    status = path.stat()
    if change == "size":
        put(path, A + b"x")
    elif change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "in place":
        put(path, B)
    elif change == "another file":
        put(path.with_name("new"), B)
        os.replace(path.with_name("new"), path)
    else:
        path.unlink()
    if change in ("in place", "another file"):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert known.get(path) is None


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    path: Path, known: Hashes
) -> None:
    known.get_or_compute(path, lambda done: os.utime(path, ns=(done, done)))
    assert known.get(path) is None


def test_reading_creates_nothing(path: Path, known: Hashes, file: Path) -> None:
    assert known.get(path) is None
    assert not file.parent.exists()


def hold(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def damage(file: Path) -> None:
    file.write_bytes(b"no database, " * 1000)


def later(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    "harm",
    [damage, later, Path.unlink, lambda f: (f.unlink(), f.mkdir()), lambda f: f.write_bytes(b"")],
    ids=["damaged", "later version", "deleted", "folder", "emptied"],
)
def test_a_file_that_cannot_be_used_stops_nothing(
    path: Path, known: Hashes, file: Path, harm: Callable[[Path], object]
) -> None:
    known.put(path, sha256(A))
    known.close()
    harm(file)
    for _ in range(2):
        assert known.get(path) in (None, sha256(A))
        assert known.get_or_compute(path) == sha256(A)


def test_a_locked_file_stops_nothing(
    path: Path, known: Hashes, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    known.put(path, sha256(A))
    known.close()
    holder = hold(file)
    assert known.get_or_compute(path) == sha256(A)
    known.put(path, sha256(A))
    holder.close()
    assert known.get_or_compute(path) == sha256(A)
    assert known.get(path) == sha256(A)


def test_names_that_are_not_utf_8(known: Hashes, tmp_path: Path) -> None:
    odd = put(tmp_path / os.fsdecode(b"\xff.gguf"), A)
    known.put(odd, sha256(A))
    assert known.get(odd) == sha256(A)


def test_old_hashes_are_forgotten(
    known: Hashes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "_MAX_FILES", 3)
    paths = [put(tmp_path / f"{i}.gguf", A) for i in range(5)]
    for each in paths:
        known.put(each, sha256(A))
    assert [known.get(each) is not None for each in paths] == [False, False, True, True, True]


class TestUses:
    """Imports, exports, verify, list and info."""

    @pytest.fixture
    def stick(self, tmp_path: Path) -> Path:
        put(tmp_path / "stick/a.gguf", A)
        manifest(tmp_path / "stick")
        return tmp_path / "stick"

    def test_an_import_fills_and_uses_them(
        self, stick: Path, tmp_path: Path, known: Hashes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = tmp_path / "models"
        import_models([stick], models, hashes=known)
        assert known.get(models / "a.gguf") == sha256(A)
        monkeypatch.setattr(hashes, "hash_of", None)  # a call would fail
        (outcome,) = import_models([stick], models, hashes=known)
        assert outcome.status == "identical"

    def test_verify_reads_the_file_all_the_same(
        self, stick: Path, tmp_path: Path, known: Hashes
    ) -> None:
        models = tmp_path / "models"
        import_models([stick], models, hashes=known)
        known.put(models / "a.gguf", sha256(B))  # as if the disk had changed the file
        assert [checked.state for checked in verify(models, hashes=known)] == ["ok"]
        assert known.get(models / "a.gguf") == sha256(A)

    def test_an_export_states_them(self, path: Path, tmp_path: Path, known: Hashes) -> None:
        """And refuses a file that no longer has the hash that it had."""
        settings = load_settings({"models_dir": path.parent}, environ={})
        entries = [e for e in Catalogue(settings).entries() if e.path == path]
        (tmp_path / "dest").mkdir()
        known.put(path, sha256(B))
        (outcome,) = export_models(entries, path.parent, tmp_path / "dest", hashes=known)
        assert outcome.code == "wrong_hash"
        known.get_or_compute(path, anew=True)
        (outcome,) = export_models(entries, path.parent, tmp_path / "dest", hashes=known)
        assert outcome.status == "exported"

    def test_list_and_info_show_them(
        self, starter_path: Path, tmp_path: Path, file: Path, known: Hashes
    ) -> None:
        model = put(tmp_path / "models/s.gguf", starter_path.read_bytes())
        flags = ["--json", "--models-dir", str(model.parent)]
        environ = {"OFFGRID_RESPONSES_FILE": str(file.with_name("responses.sqlite3"))}

        def shown(*words: str) -> object:
            return json.loads(CliRunner(env=environ).invoke(main, [*words, *flags]).stdout)

        for digest in (None, sha256(starter_path.read_bytes())):
            listed = shown("list")
            assert isinstance(listed, dict)
            assert listed["models"][0]["sha256"] == digest
            info = shown("info", "s")
            assert isinstance(info, dict)
            assert info["sha256"] == digest
            known.get_or_compute(model)


def test_a_file_is_found_by_its_hash_as_long_as_it_is_unchanged(known: Hashes, path: Path) -> None:
    assert known.find(sha256(A)) is None
    known.get_or_compute(path)
    assert known.find(sha256(A)) == path
    assert known.find(sha256(A).upper()) == path
    assert known.find(sha256(B)) is None
    put(path, B)
    assert known.find(sha256(A)) is None
