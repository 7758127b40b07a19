"""Signatures of reasoning: what is accepted back, and the key in its file."""

from __future__ import annotations

import base64
import io
import os
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.api.anthropic.signature import Forged, Signer
from offgrid.store.signing_key import SigningKey, delete_signing_key

OWN, OTHER = Signer(lambda: b"a" * 32), Signer(lambda: b"b" * 32)


@given(st.text(), st.booleans())
def test_what_is_signed_comes_back(text: str, packed: bool) -> None:
    signature = OWN.sign(text, packed=packed)
    assert OWN.opened(text, signature) == text
    assert OWN.opened("" if packed else text, signature) == text
    assert OTHER.opened(text, signature) is None
    with pytest.raises(Forged):
        OWN.opened(f"{text}.", signature)


@given(st.one_of(st.text(), st.binary().map(lambda data: f"og1.{base64.b64encode(data).decode()}")))
def test_any_other_text_is_nobodys_signature(signature: str) -> None:
    assert OWN.opened("Hm.", signature) is None


def test_a_signature_of_this_key_that_was_changed() -> None:
    begin, _, text = OWN.sign("Hm.", packed=True).partition(".")
    signed = base64.b64decode(text)
    huge = zlib.compress(bytes(1 << 25))
    for changed in (signed[:-3], signed[:40] + b"x", signed[:40] + huge):
        with pytest.raises(Forged):
            OWN.opened("", f"{begin}.{base64.b64encode(changed).decode()}")


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    responses = tmp_path / "folder" / "responses.sqlite3"
    first = SigningKey(responses)()
    assert len(first) == 32
    assert SigningKey(responses)() == first
    (file,) = responses.parent.iterdir()
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    assert SigningKey(responses)() not in (first, b"short")


def test_a_key_that_is_replaced_or_deleted_meanwhile(tmp_path: Path) -> None:
    """What ``offgrid restore`` and ``offgrid forget`` do acts on a server that runs."""
    responses = tmp_path / "responses.sqlite3"
    key = SigningKey(responses)
    first = key()
    (tmp_path / "other").write_bytes(b"a" * 32)
    (tmp_path / "other").replace(tmp_path / "signing.key")
    assert key() == b"a" * 32
    assert delete_signing_key(responses)
    assert key() not in (first, b"a" * 32)
    assert SigningKey(responses)() == key()


def test_a_full_disk_leaves_no_damaged_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    responses = tmp_path / "responses.sqlite3"
    key = SigningKey(responses)

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    def opened(descriptor: int, mode: str) -> Full:
        os.close(descriptor)
        return Full()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", opened)
        in_memory = key()
    assert [*tmp_path.iterdir()] == []
    assert key() != in_memory
    assert SigningKey(responses)() == key()


def test_a_key_that_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    key = SigningKey(tmp_path / "file" / "responses.sqlite3")
    with caplog.at_level("INFO", "offgrid"):
        assert len(key()) == 32
        assert key() == key()
    # The servers of other tests may log too.
    own = [one for one in caplog.records if one.name.startswith("offgrid.store.")]
    assert len(own) == 1
