"""Imports that are killed, interrupted or cut short: what they leave, and how they continue."""

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
from sticks import PARTS, content, hidden, manifest, put, split_model, visible
from variants import few

from offgrid.store import copying
from offgrid.store.commit import recover
from offgrid.store.disk import Disk, locked
from offgrid.store.imports import import_models
from offgrid.store.progress import Phase
from offgrid.store.sources import FileSource

SMALL = 200_000
OLD, NEW = content(1, SMALL), content(2, SMALL)


@pytest.fixture(autouse=True)
def _flush_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back while the copy goes on, as with files of gigabytes."""
    monkeypatch.setattr(copying, "_FLUSH", 2**19)


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


@pytest.mark.parametrize("operation", range(1, 30))
def test_a_kill_between_two_operations_never_mixes_two_models(
    stick: Path, models: Path, operation: int
) -> None:
    old = split_model(models, 20)
    new = split_model(stick, 10)
    disk = Dying(operation)
    with contextlib.suppress(Killed):
        import_models([stick], models, replace=True, disk=disk)
    found = visible(models)
    if PARTS[0] in found:
        assert found in (old, new)
    (stick / PARTS[1]).unlink()  # The stick may be gone when a rename is to be finished.
    import_models([stick], models, replace=True)
    found = visible(models)
    assert found in (old, new)
    split_model(stick, 10)
    import_models([stick], models, replace=True)
    assert visible(models) == new
    assert hidden(models) == []


@pytest.mark.parametrize("listed", few(1, [True, False]))
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
    assert [o.status for o in import_models([stick], models)] == ["imported"]
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
@pytest.mark.parametrize(
    "kills", [6, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.long])]
)
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
