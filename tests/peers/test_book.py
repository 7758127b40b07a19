"""The identity of a machine, and its book of peers."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from support import TIMEOUT

from offgrid.caller import Limits
from offgrid.errors import ConfigError
from offgrid.peers.book import FILE, MAX_ADDRESSES, Book, Grant, Peer
from offgrid.peers.identity import (
    Identity,
    clean_name,
    fingerprint_of,
    load_identity,
    write_private,
)


def peer_in(folder: Path, name: str = "far") -> Peer:
    identity = load_identity(folder, name)
    return Peer(
        name=name, certificate=identity.certificate, addresses=("10.0.0.2",), port=11612,
        paired_at=1,
    )  # fmt: skip


def test_an_identity_is_made_once_and_private(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "peers", "near")
    assert load_identity(tmp_path / "peers", "near") == first
    assert first.id == first.fingerprint[:16]
    assert len(first.fingerprint) == 64
    if os.name == "posix":
        assert stat.S_IMODE(first.key_file.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "peers").stat().st_mode) == 0o700


def test_two_that_start_at_a_time_have_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins while the first one writes, and ends or waits before that goes on."""
    flock, write = fcntl.flock, write_private
    made: list[Identity] = []
    goes_on = threading.Event()

    def load() -> None:
        made.append(load_identity(tmp_path, "near"))
        goes_on.set()

    second = threading.Thread(target=load)

    def lock(descriptor: int, operation: int) -> None:
        if threading.current_thread() is second:
            goes_on.set()
        flock(descriptor, operation)

    def write_slowly(path: Path, data: bytes) -> None:
        if second.ident is None:
            second.start()
            assert goes_on.wait(TIMEOUT)
        write(path, data)

    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr("offgrid.peers.identity.write_private", write_slowly)
    load()
    second.join()
    assert made == [load_identity(tmp_path, "near")] * 2


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("which", ["key_file", "certificate_file"])
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, which: str, content: bytes) -> None:
    identity = load_identity(tmp_path, "near")
    file = getattr(identity, which)
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="Restore both from a backup"):
        load_identity(tmp_path, "near")
    assert file.read_bytes() == content


def test_the_key_of_another_certificate_is_damage(tmp_path: Path) -> None:
    one, other = load_identity(tmp_path / "a"), load_identity(tmp_path / "b")
    one.key_file.write_bytes(other.key_file.read_bytes())
    with pytest.raises(ConfigError, match="cannot be used together"):
        load_identity(tmp_path / "a")


def test_a_kill_between_the_two_files_leaves_no_pair_that_differs(tmp_path: Path) -> None:
    load_identity(tmp_path).certificate_file.unlink()
    load_identity(tmp_path)


def test_two_certificates_in_one_text_are_refused(tmp_path: Path) -> None:
    text = load_identity(tmp_path).certificate
    with pytest.raises(ValueError, match="exactly one"):
        fingerprint_of(text + text)


def test_the_book_survives_a_restart(tmp_path: Path) -> None:
    book, peer = Book(tmp_path), peer_in(tmp_path / "other")
    book.add(peer)
    grant = Grant(models=("tiny",), limits=Limits(requests_per_minute=7))
    book.change(peer.fingerprint, lambda one: msgspec.structs.replace(one, grant=grant))
    (again,) = Book(tmp_path).all()
    assert again.grant == grant
    caller = again.caller("10.0.0.2")
    assert caller.models == frozenset({"tiny"})
    assert caller.limits.requests_per_minute == 7
    assert caller.scopes == {"inference"}
    book.add(peer)  # a pairing again keeps what it may do
    assert book.all()[0].grant == grant


def test_all_hear_of_a_change_whatever_one_of_them_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book, peer = Book(tmp_path), peer_in(tmp_path / "other")
    heard: list[int] = []

    def fail() -> None:
        raise OSError("no more files")

    book.on_change(fail)
    book.on_change(lambda: heard.append(len(book.all())))
    book.add(peer)
    book.change(peer.fingerprint, lambda one: msgspec.structs.replace(one, port=5))
    assert book.remove(peer.fingerprint)
    assert heard == [1, 1, 0]
    assert "no more files" in caplog.text


def test_a_damaged_book_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"peers": [{"name": 5}]}')
    with pytest.raises(ConfigError, match="pair this machine with its peers again"):
        Book(tmp_path)


def test_a_change_by_another_process_is_noticed_whenever_it_was_made(tmp_path: Path) -> None:
    far, near = peer_in(tmp_path / "far"), peer_in(tmp_path / "near")
    other = Book(tmp_path)
    other.add(far)
    book = Book(tmp_path)
    other.remove(far.fingerprint)  # before the first look
    book.reload_if_changed()
    assert book.all() == []
    other.add(near)
    book.reload_if_changed()
    assert book.all() == [near]
    (tmp_path / FILE).unlink()
    book.reload_if_changed()
    assert book.all() == []


def test_a_change_that_could_not_be_read_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = peer_in(tmp_path / "far")
    other = Book(tmp_path)
    other.add(far)
    book = Book(tmp_path)
    other.remove(far.fingerprint)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", _no_descriptor)
        with pytest.raises(ConfigError, match="Too many open files"):
            book.reload_if_changed()
    assert book.all() == [far]
    book.reload_if_changed()
    assert book.all() == []


def test_what_another_process_has_written_stays(tmp_path: Path) -> None:
    """As a backup that is restored while a server runs."""
    far, near = peer_in(tmp_path / "far"), peer_in(tmp_path / "near")
    book = Book(tmp_path)
    book.add(far)
    other = Book(tmp_path)
    other.add(near)
    book.found_at(far.fingerprint, "10.0.0.9", 5)
    kept = {peer.fingerprint: peer.addresses for peer in Book(tmp_path).all()}
    assert kept == {far.fingerprint: ("10.0.0.9", "10.0.0.2"), near.fingerprint: ("10.0.0.2",)}
    assert len(book.all()) == 2
    other.remove(far.fingerprint)
    assert not book.remove(far.fingerprint)
    assert book.all() == [near]


def test_a_file_that_another_process_has_damaged_is_not_replaced(tmp_path: Path) -> None:
    book = Book(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(OSError, match="the file of the peers cannot be read"):
        book.add(peer_in(tmp_path / "far"))
    assert (tmp_path / FILE).read_text() == "{"


def test_no_reader_waits_while_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request of a peer reads the book, and a disk may be slow."""
    book, peer = Book(tmp_path), peer_in(tmp_path / "far")
    seen: list[list[Peer]] = []

    def slow(path: Path, data: bytes) -> None:
        reader = threading.Thread(target=lambda: seen.append(book.all()), daemon=True)
        reader.start()
        reader.join(TIMEOUT)
        write_private(path, data)
        seen.append([peer])

    monkeypatch.setattr("offgrid.peers.book.write_private", slow)
    book.add(peer)
    assert seen == [[], [peer]]


def _no_descriptor(*_: object) -> os.stat_result:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_peer_is_found_by_id_and_by_a_name_that_one_has(tmp_path: Path) -> None:
    book = Book(tmp_path)
    one, other = peer_in(tmp_path / "1", "Galley"), peer_in(tmp_path / "2", "Galley")
    book.add(one)
    assert book.find("galley") == book.find(one.id) == book.find(one.id[:6]) == one
    book.add(other)
    assert book.find("galley") is None
    assert book.find(other.id.upper()) == other
    assert book.find("") is None


def test_addresses_are_kept_latest_first_and_few(tmp_path: Path) -> None:
    book, peer = Book(tmp_path), peer_in(tmp_path / "other")
    book.add(peer)
    for number in range(20):
        book.found_at(peer.fingerprint, f"10.0.1.{number}", 5)
    (after,) = book.all()
    assert after.addresses[:2] == ("10.0.1.19", "10.0.1.18")
    assert len(after.addresses) == MAX_ADDRESSES
    assert after.port == 5


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book, peer = Book(tmp_path), peer_in(tmp_path / "other")
    book.add(peer)
    before = (tmp_path / FILE).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        book.remove(peer.fingerprint)
    assert book.all() == [peer]
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", FILE]


def test_names_cannot_disturb_a_terminal() -> None:
    assert clean_name("Bridge\x1b[31m\n‮2") == "Bridge31m2"
    assert clean_name("\x00") == "unnamed"
    assert clean_name("ü" * 100) == "ü" * 63
