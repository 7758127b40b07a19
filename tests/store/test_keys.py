"""The keys file, and the keys of a running server that another process changes."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from keyed import new_key
from support import together

from offgrid.caller import Limits
from offgrid.config import load_settings
from offgrid.errors import ConfigError
from offgrid.store import key_ring, keys
from offgrid.store.database import Database
from offgrid.store.key_ring import KeyRing, KeysUnavailable
from offgrid.store.keys import Grant, KeyFile, KeyRefused, KeysError, has_keys

GRANT = Grant(frozenset({"inference"}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.sqlite3"


def ring_of(path: Path, now: list[float] | None = None) -> KeyRing:
    times = now or [1e9]
    return KeyRing(path, clock=lambda: times[0])


def problem(ring: KeyRing, secret: str) -> object:
    found = ring.find(secret)
    return "unknown" if found is None else found[1]


def test_a_key_is_kept_with_all_its_properties(path: Path) -> None:
    grant = Grant(
        frozenset({"inference", "stats"}), frozenset({"a", "b/c"}),
        Limits(5, 600, 2, 100), "/etc/filter", 2e9,
    )  # fmt: skip
    file = KeyFile(path)
    key, secret = file.create("Ward 3", grant)
    (found,) = KeyFile(path).all()
    assert found == key
    assert found.grant == grant
    assert secret.startswith("sk-offgrid-")
    assert len(secret) == len("sk-offgrid-") + 43  # 256 bits
    assert secret.startswith(key.prefix)
    caller = key.caller("10.0.0.1")
    assert (caller.id, caller.name, caller.has_key) == (key.id, "Ward 3", True)
    assert (caller.scopes, caller.models, caller.limits) == (
        grant.scopes, grant.models, grant.limits
    )  # fmt: skip
    assert caller.filter_file == "/etc/filter"


def test_the_file_has_no_secret_and_only_its_owner_may_read_it(path: Path) -> None:
    """E2: what is stored is a hash."""
    _, secret = new_key(path, "ward")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    assert secret.encode() not in content
    assert secret[20:].encode() not in content


def test_all_keys_are_compared_each_in_constant_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E2: the work is the same whichever key matches, and if none does."""
    made = [new_key(path, f"key-{number}")[1] for number in range(5)]
    ring = ring_of(path)
    assert ring.needed
    compared: list[tuple[bytes, bytes]] = []
    compare = key_ring.hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(key_ring.hmac, "compare_digest", counted)
    for secret in (*made, "wrong", ""):
        compared.clear()
        ring.find(secret)
        assert len(compared) == 5
        assert all(len(one) == len(other) == 32 for one, other in compared)


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a/b", "a\nb", "a\x1b", "\u00e4", "key_1", "x" * 65]
)
def test_names_that_are_refused(path: Path, name: str) -> None:
    with pytest.raises(KeyRefused, match="cannot be the name"):
        KeyFile(path).create(name, GRANT)
    with pytest.raises(KeyRefused, match="and not a key"):
        KeyFile(path).create("sk-offgrid-ab", GRANT)


def test_names_are_unique_among_keys_that_are_not_revoked(path: Path) -> None:
    file = KeyFile(path)
    first, _ = file.create("ward", GRANT)
    with pytest.raises(KeyRefused, match="there is a key named WARD"):
        file.create("WARD", GRANT)
    file.revoke("Ward")
    second, _ = file.create("ward", GRANT)
    assert second.id != first.id
    assert file.find("ward").id == second.id
    with pytest.raises(KeyRefused, match="did you mean ward"):
        file.revoke("wart")
    with pytest.raises(KeyRefused, match="not its secret"):
        file.revoke("sk-offgrid-abcdef")


def test_two_processes_may_create_at_the_same_moment(path: Path) -> None:
    together([lambda n=n: KeyFile(path).create(f"key-{n}", GRANT) for n in range(8)])
    assert len(KeyFile(path).all()) == 8
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_there_is_a_largest_number_of_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    file = KeyFile(path)
    file.create("a", GRANT)
    file.create("b", GRANT)
    with pytest.raises(KeyRefused, match="there are 2 keys"):
        file.create("c", GRANT)


def test_a_rotated_key_has_two_secrets_for_a_while(path: Path) -> None:
    now = [1e9]
    file = KeyFile(path, clock=lambda: now[0])
    key, first = file.create("ward", GRANT)
    rotated, second = file.rotate("ward", 3600)
    assert (rotated.id, rotated.name, rotated.grant) == (key.id, key.name, key.grant)
    ring = ring_of(path, now)
    assert (problem(ring, first), problem(ring, second)) == (None, None)
    now[0] += 3600
    assert (problem(ring, first), problem(ring, second)) == ("replaced", None)
    _, third = file.rotate(key.id)
    assert [problem(ring, each) for each in (first, second, third)] == ["replaced"] * 2 + [None]
    now[0] += 40 * 86400
    _, fourth = file.rotate(key.id)
    assert [problem(ring, each) for each in (first, third, fourth)] == ["unknown", "replaced", None]


def test_a_rotation_does_not_lengthen_an_earlier_grace(path: Path) -> None:
    now = [1e9]
    file = KeyFile(path, clock=lambda: now[0])
    _, first = file.create("ward", GRANT)
    file.rotate("ward", 60)
    file.rotate("ward", 3600)
    now[0] += 61
    assert problem(ring_of(path, now), first) == "replaced"


def test_a_ring_sees_every_change_of_another_process(path: Path) -> None:
    """Also changes in the same tick of the clock of files: each is made and asked at once."""
    ring = KeyRing(path)
    assert not ring.needed
    file = KeyFile(path)
    for number in range(30):
        _, secret = file.create(f"key-{number}", GRANT)
        assert problem(ring, secret) is None
        assert ring.needed
        file.revoke(f"key-{number}")
        assert problem(ring, secret) == "revoked"


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = new_key(path, "ward")
    os.utime(path, (1e9, 1e9))
    ring = ring_of(path, [1e9 + 10])
    assert problem(ring, secret) is None

    def read(self: KeyFile, **_: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(KeyFile, "secrets", read)
    assert problem(ring, secret) is None
    with pytest.raises(AssertionError):
        ring.reload()


def test_a_change_is_seen_although_the_clock_was_set_back(path: Path) -> None:
    """A time in the future hides nothing."""
    _, secret = new_key(path, "ward")
    os.utime(path, (2e9, 2e9))
    ring = ring_of(path, [1e9])
    assert problem(ring, secret) is None
    KeyFile(path).revoke("ward")
    os.utime(path, (2e9, 2e9))
    assert problem(ring, secret) == "revoked"


def test_expiry(path: Path) -> None:
    now = [1e9]
    _, secret = new_key(path, "ward", expires=1e9 + 5)
    ring = ring_of(path, now)
    assert problem(ring, secret) is None
    now[0] += 5
    assert problem(ring, secret) == "expired"
    assert ring.needed


def test_a_file_that_another_process_has_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offgrid.store.database.BUSY_SECONDS", 0.0)
    _, secret = new_key(path, "ward")
    now = [0.0]
    ring = KeyRing(path, monotonic=lambda: now[0])
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KeysUnavailable):
        ring.find(secret)
    with pytest.raises(KeysError, match="another process has locked it"):
        KeyFile(path).create("other", GRANT)
    connection.execute("ROLLBACK")
    with pytest.raises(KeysUnavailable):  # it is not tried again at once
        ring.find(secret)
    now[0] += 1.0
    assert problem(ring, secret) is None
    connection.close()


def test_a_file_of_a_later_version(path: Path) -> None:
    new_key(path, "ward")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(KeysError, match="later version"):
        KeyFile(path).all()
    with pytest.raises(KeysUnavailable):
        assert KeyRing(path).needed


def test_unknown_scopes_of_a_file_give_nothing(path: Path) -> None:
    new_key(path, "ward")
    connection = sqlite3.connect(path)
    connection.execute("""UPDATE keys SET scopes = '["inference", "root"]'""")
    connection.commit()
    connection.close()
    assert KeyFile(path).all()[0].grant.scopes == {"inference"}


@pytest.mark.parametrize("column", ["scopes", "models", "limits"])
def test_a_damaged_row_is_an_error(path: Path, column: str) -> None:
    new_key(path, "ward")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE keys SET {column} = '[['")
    connection.commit()
    connection.close()
    with pytest.raises(KeysError, match="cannot be used"):
        KeyFile(path).all()


def test_a_file_that_was_never_readable_does_not_open_when_it_goes(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 500)
    ring = KeyRing(path)
    with pytest.raises(KeysUnavailable):
        assert ring.needed
    path.unlink()
    with pytest.raises(KeysUnavailable):
        assert ring.needed


def test_a_link_to_nothing_is_no_missing_file(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(KeysUnavailable):
        assert KeyRing(path).needed


def test_a_file_that_may_only_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may read a file that its administrator owns; the use of a key is not noted."""
    _, secret = new_key(path, "ward")
    ring = KeyRing(path)
    found = ring.find(secret)
    assert found is not None
    prepare = Database.run

    def read_only(self: Database, work: object, *, write: bool, wait: bool = True) -> object:
        if write:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return prepare(self, work, write=write, wait=wait)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "run", read_only)
    ring.touch(found[0])
    assert problem(ring, secret) is None
    # The message advises no user to remove a file that is in order.
    with pytest.raises(KeysError, match="let this user read and write it") as refused:
        KeyFile(path).revoke("ward")
    assert "remove" not in str(refused.value)


def test_root_gives_a_new_file_to_the_owner_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator creates the first key of a service that runs as another user."""
    given: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda fd, *ids: given.append((os.fstat(fd).st_ino, *ids)))
    path = tmp_path / "home" / ".offgrid-llm" / "keys.sqlite3"
    new_key(path, "ward")
    ids = tmp_path.stat().st_uid, tmp_path.stat().st_gid
    made = (path.parent.parent, path.parent, path)
    assert given == [(one.stat().st_ino, *ids) for one in made]
    new_key(path, "other")
    assert len(given) == 3


def test_the_last_use_is_noted_about_once_an_hour(path: Path) -> None:
    now = [1e9]
    key, _ = new_key(path, "ward")
    ring = ring_of(path, now)
    file = KeyFile(path)
    ring.touch(key)
    assert file.find("ward").last_used == 1e9
    now[0] += 3599
    ring.touch(key)
    assert file.find("ward").last_used == 1e9
    now[0] += 1
    ring.touch(key)
    assert file.find("ward").last_used == 1e9 + 3600


def test_has_keys_counts_valid_keys_and_fails_on_a_bad_file(path: Path) -> None:
    settings = load_settings({"keys_file": path}, environ={})
    assert not has_keys(settings)
    assert not path.exists()
    new_key(path, "old", expires=1e9)
    assert not has_keys(settings)
    new_key(path, "ward")
    assert has_keys(settings)
    KeyFile(path).revoke("ward")
    assert not has_keys(settings)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used"):
        has_keys(settings)


def test_the_socket_thread_asks_without_waiting(path: Path) -> None:
    ring = KeyRing(path)
    assert ring.refuses(None) is False
    _, secret = new_key(path, "ward")
    assert ring.refuses(secret) is False
    assert ring.refuses("wrong") is True
    assert ring.refuses(None) is True
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE keys SET revoked = 1")
    connection.execute("COMMIT")
    connection.execute("BEGIN EXCLUSIVE")
    assert ring.refuses(secret) is None  # it has changed, and cannot be read now
    connection.execute("ROLLBACK")
    connection.close()
    assert ring.refuses(secret) is True
    path.unlink()
    assert ring.refuses(secret) is True
