"""Backups: complete while others write, never half, and restored only if they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from random import Random
from typing import Any

import pytest

from offgrid.api.anthropic.signature import Signer
from offgrid.config import Settings, load_settings
from offgrid.errors import TransferError
from offgrid.peers.identity import load_identity
from offgrid.store import backup as writing
from offgrid.store import restore as restoring
from offgrid.store.backup import write_backup
from offgrid.store.backup_filters import name_in_config
from offgrid.store.backup_parts import CONFIG, MANIFEST, PARTS, check_database
from offgrid.store.disk import Disk
from offgrid.store.file import Item
from offgrid.store.history.message import Conversation, StoredMessage
from offgrid.store.history.store import HistoryStore
from offgrid.store.keys import Grant, KeyFile
from offgrid.store.responses import ResponseStore, StoredResponse
from offgrid.store.restore import ASIDE, Restored, restore_backup
from offgrid.store.signing_key import SigningKey

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECRET = b"the captain is afraid of otters"


class Place:
    """A server's files in a folder, and a backup of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "offgrid.toml"
        self.file = folder / "responses.sqlite3"
        self.keys = folder / "keys.sqlite3"
        self.archive = folder / "backup.zip"

    def settings(self, config: Path | None = None) -> Settings:
        given = config or (self.config if self.config.exists() else "")
        flags = {
            "models_dir": self.folder / "models", "responses_file": self.file,
            "keys_file": self.keys,
        }  # fmt: skip
        return load_settings(flags, environ={}, config_file=given)

    def store(self) -> ResponseStore:
        return ResponseStore(self.file, 1000, 1 << 30)

    def keep(self, *ids: str) -> None:
        store = self.store()
        for id in ids:
            items = (Item(f"item-{id}", json.dumps(SECRET.decode()).encode()),)
            store.put(StoredResponse(id, None, b"{}", items, ()))
        store.close()

    def has(self, id: str) -> bool:
        store = self.store()
        try:
            return store.get(id) is not None
        finally:
            store.close()

    def back_up(self, disk: Disk | None = None) -> writing.Written:
        config = self.config if self.config.exists() else None
        return write_backup(self.archive, self.settings(), config, disk or Disk())

    def restore(self, archive: Path, **options: Any) -> Restored:
        options.setdefault("config", self.config)
        return restore_backup(archive, options.pop("config"), self.settings, **options)

    def hidden(self) -> list[Path]:
        return [path for path in self.folder.rglob(".*")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A server with a response, a configuration and a template."""
    place = Place(tmp_path / "here")
    place.keep("resp_one")
    (place.folder / "templates").mkdir()
    (place.folder / "templates" / "chat.jinja").write_text("{{ messages }}")
    place.config.write_text(
        'keep_alive = 77\n[models.cook]\nbase = "a"\nchat_template = "templates/chat.jinja"\n'
    )
    return place


@pytest.fixture
def elsewhere(tmp_path: Path) -> Place:
    """Another machine, without files."""
    return Place(tmp_path / "there")


def rewritten(archive: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write a changed copy of an archive."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return target


def change_manifest(members: dict[str, bytes], **fields: Any) -> None:
    manifest = json.loads(members[MANIFEST])
    members[MANIFEST] = json.dumps({**manifest, **fields}).encode()


def add_file(members: dict[str, bytes], name: str, data: bytes = b"x") -> None:
    """Add a file, and list it as a forger would."""
    manifest = json.loads(members[MANIFEST])
    row = {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(members, files=[*manifest["files"], row])
    members[name] = data


# --- the round trip -------------------------------------------------------------------------------


def test_everything_comes_back_on_another_machine(place: Place, elsewhere: Place) -> None:
    written = place.back_up()
    names = [file.name for file in written.files]
    assert names == ["responses.sqlite3", CONFIG, "config/templates/chat.jinja"]
    assert place.hidden() == []
    done = elsewhere.restore(place.archive)
    assert done.config
    assert done.asides == []
    assert elsewhere.has("resp_one")
    assert elsewhere.config.read_text() == place.config.read_text()
    assert (elsewhere.folder / "templates" / "chat.jinja").read_text() == "{{ messages }}"
    assert elsewhere.hidden() == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_only_the_owner_can_read_it(place: Place, elsewhere: Place) -> None:
    """Whatever the umask, at every moment."""
    seen: list[int] = []

    class Watching(Disk):
        def sync(self, file: FileIO) -> None:
            for path in (*place.folder.glob(".*"), *place.folder.glob(".*.parts/*")):
                if path.is_file():
                    seen.append(stat.S_IMODE(path.stat().st_mode))
            super().sync(file)

    before = os.umask(0)
    try:
        place.back_up(Watching())
        elsewhere.restore(place.archive)
    finally:
        os.umask(before)
    assert len(seen) >= 2
    files = [place.archive, elsewhere.file]
    assert {*seen, *(stat.S_IMODE(path.stat().st_mode) for path in files)} == {0o600}


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_who_can_read_a_restored_configuration(place: Place, elsewhere: Place) -> None:
    """A service must be able to read what its administrator restores: as before, and if there was
    none, everybody can. For other users it is private."""
    place.back_up()
    elsewhere.restore(place.archive)
    assert stat.S_IMODE(elsewhere.config.stat().st_mode) == (0o600 if os.geteuid() else 0o644)
    elsewhere.config.chmod(0o640)
    elsewhere.restore(place.archive, force=True)
    assert stat.S_IMODE(elsewhere.config.stat().st_mode) == 0o640


def test_the_history_comes_back_with_its_index(place: Place, elsewhere: Place) -> None:
    def history(of: Place) -> HistoryStore:
        return HistoryStore.of_settings(of.settings())

    said = StoredMessage(id="m", role="user", content="Do otters swim?")
    history(place).create(Conversation(id="x", title="T", messages=[said]))
    assert "history.sqlite3" in [file.name for file in place.back_up().files]
    elsewhere.restore(place.archive)
    assert [one.id for one in history(elsewhere).page("otters", None, 9)[0]] == ["x"]
    assert history(elsewhere).append("x", [StoredMessage(id="n", role="user")], None) is not None


def test_a_table_names_what_is_backed_up(place: Place) -> None:
    """Files of settings that exist; others are named as absent."""
    paths = {part.name: part.path(place.settings()) for part in PARTS}
    assert paths["responses.sqlite3"] == place.file
    assert paths["stats.json"] == place.file.with_name("stats.json")
    place.file.with_name("stats.json").write_text("{}")
    written = place.back_up()
    assert "stats.json" in [file.name for file in written.files]
    assert written.absent == [path for path in paths.values() if path and not path.exists()]


def test_signed_reasoning_is_known_on_another_machine(place: Place, elsewhere: Place) -> None:
    """Also by a server that has made a key before, and runs."""
    signature = Signer(SigningKey(place.file)).sign("Hm.")
    running = Signer(SigningKey(elsewhere.file))
    assert running.opened("Hm.", signature) is None
    place.back_up()
    elsewhere.restore(place.archive, force=True)
    assert running.opened("Hm.", signature) == "Hm."
    key = elsewhere.file.with_name("signing.key")
    assert key.with_name(f"{key.name}{ASIDE}").exists()
    if sys.platform != "win32":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_machine_keeps_its_identity_and_its_peers(place: Place, elsewhere: Place) -> None:
    folder = place.settings().peers_dir
    identity = load_identity(folder, "galley")
    (folder / "peers.json").write_text('{"peers":[]}')
    (folder / "pairing.json").write_text('{"wrong":[]}')
    names = [file.name for file in place.back_up().files]
    assert [name for name in names if name.startswith("peers/")] == [
        "peers/peers.json", "peers/key.pem", "peers/certificate.pem"
    ]  # fmt: skip
    elsewhere.restore(place.archive)
    there = elsewhere.settings().peers_dir
    assert load_identity(there).fingerprint == identity.fingerprint
    assert sorted(path.name for path in there.iterdir()) == [
        "certificate.pem", "key.pem", "peers.json"
    ]  # fmt: skip
    if sys.platform != "win32":
        assert stat.S_IMODE(there.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in there.iterdir()} == {0o600}


def test_files_in_other_folders_are_named(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.jinja"
    other.write_text("x")
    place.config.write_text(f"chat_template = '{other}'")
    assert place.back_up().elsewhere == [other]


def test_a_restore_names_the_models_that_are_missing(
    place: Place, elsewhere: Place, starter_path: Path
) -> None:
    (place.folder / "models").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (place.folder / "models" / name).symlink_to(starter_path)
    place.back_up()
    (elsewhere.folder / "models").mkdir()
    (elsewhere.folder / "models" / "a.gguf").symlink_to(starter_path)
    assert elsewhere.restore(place.archive).missing == ["b"]


def test_without_the_configuration(place: Place, elsewhere: Place) -> None:
    place.back_up()
    done = elsewhere.restore(place.archive, config=None)
    assert (done.config, done.targets) == (False, [elsewhere.file])
    assert not elsewhere.config.exists()


# --- content filters ------------------------------------------------------------------------------


def with_filter(place: Place, name: str, content: str = "otter") -> Path:
    """Let the settings name a filter file in the folder of a place."""
    rules = place.folder / name
    rules.write_text(content)
    text = place.config.read_text() if place.config.exists() else ""
    place.config.write_text(f"filter_file = '{rules}'\n{text}")
    return rules


def filter_of(place: Place) -> Path:
    return Path(tomllib.loads(place.config.read_text())["filter_file"])


def test_a_filter_stays_where_it_is_if_it_is_the_same(place: Place) -> None:
    rules = with_filter(place, "rules.txt")
    place.back_up()
    before = place.config.read_text()
    done = place.restore(place.archive, force=True)
    assert place.config.read_text() == before
    assert (done.unnamed_filter, done.without_filter) == (None, {})
    assert not (place.keys.with_name("filters")).exists()
    assert rules.exists()


def test_a_filter_that_has_changed_since_is_not_overwritten(place: Place) -> None:
    """Its path may be anywhere: the file of the backup comes beside the keys, and is named."""
    rules = with_filter(place, "rules.txt")
    place.back_up()
    rules.write_text("badger")
    place.restore(place.archive, force=True)
    assert rules.read_text() == "badger"
    assert filter_of(place) == place.keys.with_name("filters") / "rules.txt"
    assert filter_of(place).read_text() == "otter"
    assert tomllib.loads(place.config.read_text())["keep_alive"] == 77


def test_a_relative_path_means_the_folder_of_the_configuration(
    place: Place, elsewhere: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the commands run, and although the configuration is in another folder afterwards."""
    monkeypatch.chdir(tmp_path)
    (place.folder / "rules.txt").write_text("otter")
    place.config.write_text(f"filter_file = 'rules.txt'\n{place.config.read_text()}")
    assert place.back_up().without_filter == {}
    place.restore(place.archive, force=True)
    assert filter_of(place) == Path("rules.txt")
    done = elsewhere.restore(place.archive)
    assert filter_of(elsewhere) == elsewhere.keys.with_name("filters") / "rules.txt"
    assert filter_of(elsewhere).read_text() == "otter"
    assert (done.unnamed_filter, done.without_filter) == (None, {})


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_only_the_owner_can_read_a_filter(place: Place, elsewhere: Place) -> None:
    rules = with_filter(place, "rules.txt")
    rules.chmod(0o644)
    before = os.umask(0)
    try:
        place.back_up()
        rules.unlink()
        elsewhere.restore(place.archive)
    finally:
        os.umask(before)
    restored = filter_of(elsewhere)
    assert stat.S_IMODE(restored.stat().st_mode) == 0o600
    assert stat.S_IMODE(restored.parent.stat().st_mode) == 0o700


def test_filters_of_keys(place: Place, elsewhere: Place) -> None:
    """Two files of the same name, one file of two keys, and one of a key that was revoked."""
    paths = [place.folder / name / "rules.txt" for name in ("a", "b", "c")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    for name, path in zip(("one", "two", "three", "four"), (*paths, paths[0]), strict=True):
        KeyFile(place.keys).create(name, Grant(frozenset({"inference"}), filter_file=str(path)))
    KeyFile(place.keys).revoke("three")
    names = [file.name for file in place.back_up().files if file.name.startswith("filters/")]
    assert names == ["filters/rules.txt", "filters/rules-2.txt"]
    for path in paths:
        path.unlink()
    done = elsewhere.restore(place.archive)
    assert done.without_filter == {}
    keys = {key.name: Path(key.grant.filter_file) for key in KeyFile(elsewhere.keys).all()}
    folder = elsewhere.keys.with_name("filters")
    assert keys == {
        "one": folder / "rules.txt", "two": folder / "rules-2.txt", "three": paths[2],
        "four": folder / "rules.txt",
    }  # fmt: skip
    assert [keys[name].read_text() for name in ("one", "two")] == ["a", "b"]


def test_without_the_configuration_its_filter_stays_out(place: Place, elsewhere: Place) -> None:
    with_filter(place, "rules.txt")
    place.back_up()
    (place.folder / "rules.txt").unlink()
    assert elsewhere.restore(place.archive, config=None).unnamed_filter is None
    assert not elsewhere.keys.with_name("filters").exists()


@pytest.mark.parametrize(
    "name", ["filters/../outside", "filters/", "filters/a/b", "filters/.a", "filters/a\\b"]
)
def test_names_of_filters_that_lead_elsewhere(place: Place, elsewhere: Place, name: str) -> None:
    """D5."""
    place.back_up()

    def change(members: dict[str, bytes]) -> None:
        add_file(members, name)
        change_manifest(members, filters={"/no/where": name}, filter_file="/no/where")

    untouched(elsewhere, rewritten(place.archive, place.folder / "evil.zip", change), "no place")


def test_a_filter_that_the_archive_lacks(place: Place, elsewhere: Place) -> None:
    place.back_up()

    def change(members: dict[str, bytes]) -> None:
        change_manifest(members, filters={"/no/where": "filters/no"}, filter_file="/no/where")

    untouched(elsewhere, rewritten(place.archive, place.folder / "evil.zip", change), "it has no")


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("filter_file = '/a' # why\nport = 1", 'filter_file = "/b" # why\nport = 1'),
        ('"filter_file"="/a"\r\n', '"filter_file"="/b"\r\n'),
        (
            "system_prompt = '''\nfilter_file = '/a'\n'''\nfilter_file = '/a'",
            "system_prompt = '''\nfilter_file = '/a'\n'''\nfilter_file = \"/b\"",
        ),
        ("filter_file = ' a '", 'filter_file = "/b"'),
        ('filter_file = """/a"""', None),
        ("filter_file = '/other'", None),
        ("[models.a]\nfilter_file = '/a'", None),
    ],
)
def test_the_configuration_names_another_path(text: str, changed: str | None) -> None:
    """Nothing else changes, also where a text only looks like the setting."""
    assert name_in_config(text, {"/a": "/b"}, "/") == changed


# --- while others use the files -------------------------------------------------------------------


def test_a_backup_while_another_thread_writes(place: Place, elsewhere: Place) -> None:
    """Each response that was stored before is in the backup, and the copy is sound."""
    store = ResponseStore(place.file, 1 << 30, 1 << 30)  # room for all, however many there are
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.put(StoredResponse(f"resp_{number}", None, b"{}", (), ()))
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(60)
        for _ in range(3):
            place.back_up()
    finally:
        stop.set()
        thread.join()
    store.close()
    elsewhere.restore(place.archive)
    assert elsewhere.has("resp_one")
    assert elsewhere.has("resp_1")
    assert check_database(elsewhere.file) is None


def test_a_restore_while_a_store_is_open(place: Place) -> None:
    """The store sees the restored responses at once, and goes on."""
    place.back_up()
    store = place.store()
    assert store.delete("resp_one")
    store.put(StoredResponse("resp_later", None, b"{}", (), ()))
    done = place.restore(place.archive, force=True)
    assert store.get("resp_one") is not None
    assert store.get("resp_later") is None
    store.put(StoredResponse("resp_new", None, b"{}", (), ()))
    store.close()
    assert place.has("resp_new")
    old = Place(place.folder / "old")
    old.file = next(path for path in done.asides if path.name.startswith("responses"))
    assert old.file.name == f"responses.sqlite3{ASIDE}"
    assert old.has("resp_later")


def test_a_locked_database(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offgrid.store.backup_parts._BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(place.file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TransferError, match="another program has locked it") as caught:
            place.back_up()
    assert caught.value.code == "busy"
    assert not place.archive.exists()
    assert place.hidden() == []


@pytest.mark.parametrize("name", ["stats.json", "offgrid.toml"])
def test_a_file_that_cannot_be_read_is_named(place: Place, name: str) -> None:
    """And not the archive, which could be written."""
    settings = place.settings()
    (place.folder / name).unlink(missing_ok=True)
    (place.folder / name).mkdir()
    with pytest.raises(TransferError, match=rf"{name}: cannot be read \(Is a directory") as caught:
        write_backup(place.archive, settings, place.config)
    assert caught.value.code == "source"
    assert not place.archive.exists()
    assert place.hidden() == []


def test_a_damaged_database_is_no_backup(place: Place) -> None:
    for suffix in ("-wal", "-shm"):
        place.file.with_name(place.file.name + suffix).unlink(missing_ok=True)
    place.file.write_bytes(b"SQLite format 3\0" + b"\xa5" * 8000)
    with pytest.raises(TransferError, match="cannot be read"):
        place.back_up()
    assert not place.archive.exists()


# --- files that exist -----------------------------------------------------------------------------


def test_nothing_is_replaced_without_force(place: Place) -> None:
    place.back_up()
    place.keep("resp_two")
    with pytest.raises(TransferError, match=r"exists already.*--force"):
        place.restore(place.archive)
    assert place.has("resp_two")
    assert place.hidden() == []


def test_every_earlier_copy_stays(place: Place) -> None:
    place.back_up()
    for _ in range(2):
        place.restore(place.archive, force=True)
    copies = {path.name for path in place.folder.iterdir() if ASIDE in path.name}
    assert {f"responses.sqlite3{ASIDE}", f"responses.sqlite3{ASIDE}-2"} <= copies
    assert {f"offgrid.toml{ASIDE}", f"offgrid.toml{ASIDE}-2"} <= copies


def test_a_damaged_database_is_replaced(place: Place) -> None:
    """Its bytes stay too."""
    place.back_up()
    garbage = b"SQLite format 3\0" + b"\xa5" * 8000
    place.file.write_bytes(garbage)
    place.restore(place.archive, force=True)
    assert place.has("resp_one")
    assert place.file.with_name(place.file.name + ASIDE).read_bytes() == garbage


@pytest.mark.parametrize("when", ["before both", "after the copy"])
def test_a_locked_database_is_not_replaced(
    place: Place, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A lock is no damage: the program that holds it goes on to write to the same file."""
    monkeypatch.setattr("offgrid.store.backup_parts._BUSY_SECONDS", 0.1)
    place.back_up()
    with contextlib.closing(sqlite3.connect(place.file, isolation_level=None)) as other:

        def lock() -> None:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")

        if when == "before both":
            lock()
        else:
            put = restoring._put

            def put_late(*arguments: Any) -> None:
                if not other.in_transaction:
                    lock()
                put(*arguments)

            monkeypatch.setattr(restoring, "_put", put_late)
        before = place.file.stat().st_ino
        with pytest.raises(TransferError, match="locked"):
            place.restore(place.archive, force=True)
        assert place.file.stat().st_ino == before
        other.execute("DELETE FROM responses")
        other.execute("COMMIT")
    assert not place.has("resp_one")
    assert place.hidden() == []


MANY = 40
ALL = [f"key {number}" for number in range(MANY)]


@pytest.fixture
def interrupted(place: Place) -> Place:
    """A backup with one key; a keys file with more; and a program that was killed while it wrote to
    that file, so that its journal is still there."""
    keys = KeyFile(place.keys)
    keys.create("key 0", Grant(frozenset({"inference"})))
    place.back_up()
    for number in range(1, MANY):
        keys.create(f"key {number}", Grant(frozenset({"inference"})))
    keys.close()
    code = f"""
        import os, sqlite3
        connection = sqlite3.connect({str(place.keys)!r}, isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE keys SET name = 'x' || name, models = '[]'")
        connection.execute("UPDATE secrets SET prefix = 'y'")
        for number in range(200):
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, '[]', NULL, '{{}}', '', 1, NULL, NULL, NULL)",
                (str(number), "n" * 300 + str(number)),
            )
        os._exit(9)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd="/")
    assert ended.returncode == 9
    assert place.keys.with_name("keys.sqlite3-journal").stat().st_size > 0
    return place


def names_of_keys(path: Path) -> list[str]:
    keys = KeyFile(path)
    try:
        return [key.name for key in keys.all()]
    finally:
        keys.close()


def test_a_restore_after_a_kill_in_the_middle_of_a_write(interrupted: Place) -> None:
    """SQLite must not mix the journal of the old file with the new one."""
    interrupted.restore(interrupted.archive, force=True)
    assert names_of_keys(interrupted.keys) == ALL[:1]
    assert check_database(interrupted.keys) is None
    aside = interrupted.keys.with_name(f"{interrupted.keys.name}{ASIDE}")
    assert names_of_keys(aside) == ALL


def test_the_journal_of_a_damaged_database_goes_with_it(interrupted: Place) -> None:
    """It cannot be used any more, and must not be used with the next file."""
    interrupted.keys.write_bytes(b"\xa5" * interrupted.keys.stat().st_size)
    interrupted.restore(interrupted.archive, force=True)
    assert names_of_keys(interrupted.keys) == ALL[:1]
    assert check_database(interrupted.keys) is None


def test_a_backup_after_a_kill_in_the_middle_of_a_write(
    interrupted: Place, elsewhere: Place
) -> None:
    interrupted.back_up()
    elsewhere.restore(interrupted.archive)
    assert names_of_keys(elsewhere.keys) == ALL


def test_a_backup_replaces_only_backups(place: Place) -> None:
    place.back_up()
    place.back_up()
    place.archive.write_text("my thesis")
    with pytest.raises(TransferError, match="is not a backup; choose another name"):
        place.back_up()
    assert place.archive.read_text() == "my thesis"


# --- archives that are not whole, or hostile ------------------------------------------------------


def untouched(elsewhere: Place, archive: Path, match: str) -> None:
    """Check that an archive is refused, and that no file was written."""
    with pytest.raises(TransferError, match=match):
        elsewhere.restore(archive)
    assert [path for path in elsewhere.folder.rglob("*") if path.is_file()] == []


def test_archives_that_were_cut(place: Place, elsewhere: Place) -> None:
    place.back_up()
    whole = place.archive.read_bytes()
    cut = place.folder / "cut.zip"
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        cut.write_bytes(whole[:size])
        untouched(elsewhere, cut, "is not a whole backup")


def test_archives_with_changed_bytes(place: Place, elsewhere: Place) -> None:
    """Every 97th byte: refused, or the byte did not matter."""
    place.back_up()
    whole = place.archive.read_bytes()
    changed = place.folder / "changed.zip"
    refused = 0
    for at in range(0, len(whole), 97):
        data = bytearray(whole)
        data[at] ^= 0x55
        changed.write_bytes(data)
        try:
            elsewhere.restore(changed, force=True)
        except TransferError:
            refused += 1
        else:
            assert elsewhere.has("resp_one")
            assert elsewhere.config.read_text() == place.config.read_text()
    assert refused > len(whole) // 97 // 2


def test_random_mutations_of_an_archive(place: Place, elsewhere: Place) -> None:
    """Bytes that are changed, removed and repeated: refused, or restored whole."""
    place.keep("a")
    place.back_up()
    whole, random = place.archive.read_bytes(), Random(1)
    mutated = elsewhere.folder / "mutated.zip"
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        if random.random() < 0.5:
            for _ in range(random.randint(1, 4)):
                data[random.randrange(len(data))] = random.randrange(256)
        else:
            begin, end = random.randrange(len(data)), random.randrange(len(data))
            data[begin : begin + random.randint(0, 40)] = data[end : end + random.randint(0, 40)]
        mutated.write_bytes(data)
        try:
            elsewhere.restore(mutated, config=None, force=True)
        except TransferError:
            refused += 1
        else:
            assert elsewhere.has("a")
        assert not [path for path in elsewhere.folder.iterdir() if path.name.endswith(".restored")]
    assert refused


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "config/../../outside", "/outside", "config//outside", "config/",
        "config/a/../../../outside", "config\\outside", "C:/outside", "config/C:outside",
        "outside", "config", "config/a\0b",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere(place: Place, elsewhere: Place, name: str) -> None:
    """D5."""
    place.back_up()
    evil = rewritten(
        place.archive, place.folder / "evil.zip", lambda members: add_file(members, name)
    )
    untouched(elsewhere, evil, "is not a whole backup")
    assert not (elsewhere.folder.parent / "outside").exists()


def test_other_forgeries(place: Place, elsewhere: Place) -> None:
    place.back_up()
    target = place.folder / "evil.zip"

    def refused(change: Callable[[dict[str, bytes]], Any], match: str) -> None:
        rewritten(place.archive, target, lambda members: change(members) and None)
        untouched(elsewhere, target, match)

    refused(lambda members: members.pop(MANIFEST), "it has no manifest")
    refused(lambda members: members.pop(CONFIG), "other files than its manifest lists")
    refused(lambda members: members.update(more=b""), "other files than its manifest lists")
    refused(lambda members: members.update({CONFIG: b"port = 1"}), "is not the file that")
    refused(lambda members: members.update({MANIFEST: b"{"}), "its manifest")
    refused(lambda members: change_manifest(members, files=7), "its manifest")
    refused(lambda members: change_manifest(members, format="x"), "another program")
    refused(lambda members: change_manifest(members, version=2), "later than this version")

    def other_database(members: dict[str, bytes]) -> None:
        data = b"not a database" * 100
        row = {
            "name": "responses.sqlite3", "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        change_manifest(members, files=[row])
        members["responses.sqlite3"] = data
        for name in [name for name in members if name.startswith("config/")]:
            del members[name]

    refused(other_database, "responses.sqlite3: file is not a database")

    def bad_settings(members: dict[str, bytes]) -> None:
        data = b"no_such_setting = 1"
        manifest = json.loads(members[MANIFEST])
        rows = [row for row in manifest["files"] if row["name"] != CONFIG]
        change_manifest(members, files=rows)
        del members[CONFIG]
        add_file(members, CONFIG, data)

    refused(bad_settings, "configuration in the backup cannot be used here.*no_such_setting")


def test_an_archive_that_unpacks_to_more_than_it_says(place: Place, elsewhere: Place) -> None:
    """It is not unpacked to its end."""
    place.back_up()

    def grow(members: dict[str, bytes]) -> None:
        members[CONFIG] += b"#" * (64 << 20)

    bomb = rewritten(place.archive, place.folder / "bomb.zip", grow)
    untouched(elsewhere, bomb, "is not the file that its manifest lists")


def test_no_such_file(elsewhere: Place) -> None:
    untouched(elsewhere, elsewhere.folder / "no.zip", "there is no such file")


# --- full disks and kills -------------------------------------------------------------------------


class FullDisk(Disk):
    """Fails at one of its operations."""

    def __init__(self, at: str) -> None:
        self._at = at

    def sync(self, file: FileIO) -> None:
        if self._at == "sync":
            raise OSError(28, "No space left on device")
        super().sync(file)

    def replace(self, old: Path, new: Path) -> None:
        if self._at == "replace":
            raise OSError(28, "No space left on device")
        super().replace(old, new)


@pytest.mark.parametrize("at", ["sync", "replace"])
def test_a_full_disk_keeps_the_old_backup(place: Place, at: str) -> None:
    place.back_up()
    before = place.archive.read_bytes()
    place.keep("resp_two")
    with pytest.raises(TransferError, match="the disk is full") as caught:
        place.back_up(FullDisk(at))
    assert caught.value.code == "disk_full"
    assert "Free some room there" in str(caught.value)  # how much is not known
    assert place.archive.read_bytes() == before
    assert place.hidden() == []


def test_a_full_disk_while_restoring(place: Place, elsewhere: Place) -> None:
    place.back_up()
    with pytest.raises(TransferError, match=r"cannot be restored .No space left"):
        elsewhere.restore(place.archive, disk=FullDisk("replace"))
    elsewhere.restore(place.archive, force=True)
    assert elsewhere.has("resp_one")


PROGRAM = """
    import os, signal, sys, threading
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_backup import Place
    place, count, what = Place(Path({folder!r})), int(sys.argv[1]), sys.argv[2]
    seen = 0
    def count_lines(frame, event, argument):
        global seen
        seen += "offgrid/store" in frame.f_code.co_filename
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return count_lines
    sys.settrace(count_lines)
    place.back_up() if what == "backup" else place.restore(place.archive, force=True)
    sys.settrace(None)
    print(seen)
"""


def run_until(place: Place, count: int, what: str) -> subprocess.CompletedProcess[str]:
    """Back up or restore, and be killed after some lines of Python."""
    program = textwrap.dedent(PROGRAM).format(
        tests=str(Path(__file__).parent), folder=str(place.folder)
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(count), what], capture_output=True, text=True,
        cwd=place.folder,  # Python would import the source tree in the project folder
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("what", ["backup", "restore"])
@pytest.mark.parametrize(
    "kills", [4, pytest.param(40, marks=pytest.mark.slow)], ids=["a few", "many"]
)
def test_a_kill_leaves_the_old_or_the_new(place: Place, what: str, kills: int) -> None:
    """The default run kills it at a few places, the slow one at many."""
    place.back_up()
    place.keep("resp_two")
    before = place.archive.read_bytes()
    ended = run_until(place, -1, what)
    assert ended.returncode == 0, ended.stderr
    lines = int(ended.stdout)
    place.archive.write_bytes(before)
    for number in range(kills):
        ended = run_until(place, 1 + lines * number // kills, what)
        assert ended.returncode == -signal.SIGKILL
        assert check_database(place.file) is None
        assert place.has("resp_one")
        again = Place(place.folder.parent / f"again-{what}-{number}")
        again.restore(place.archive)
        assert again.has("resp_one")
    if what == "backup":
        place.back_up()
    else:
        place.restore(place.archive, force=True)
    assert place.hidden() == []
