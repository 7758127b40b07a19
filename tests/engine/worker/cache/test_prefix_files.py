"""Files of saved prefixes: complete or absent, whatever happens to them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offgrid.engine.saved_prefixes import delete_saved, saved_bytes, saved_files
from offgrid.engine.worker.cache import files as module
from offgrid.engine.worker.cache.files import PrefixFiles
from offgrid.engine.worker.cache.index import SavedPrefix

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SIZE = 3000


def prefix_of(number: int, length: int = 40) -> SavedPrefix:
    tokens = np.arange(length, dtype=np.int32) + 1000 * number
    return SavedPrefix(tokens, length // 2, SIZE, mark=10, mark_size=SIZE // 3)


def state_of(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)


def files_in(folder: Path, key: bytes = KEY, limit: int = 1 << 30) -> PrefixFiles:
    return PrefixFiles(folder, key, limit)


def written(files: PrefixFiles, number: int) -> SavedPrefix:
    prefix = prefix_of(number)
    prefix.path = files.write(prefix, state_of(number))
    assert prefix.path is not None
    return prefix


def test_what_is_written_is_found_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "prefixes"
    first, second = (written(files_in(folder), number) for number in (1, 2))
    found = files_in(folder).scan()
    assert [one.tokens.tolist() for one in found] == [
        first.tokens.tolist(),
        second.tokens.tolist(),
    ]
    assert [(one.n_prompt, one.size) for one in found] == [(20, SIZE)] * 2
    assert [(one.mark, one.mark_size) for one in found] == [(10, SIZE // 3)] * 2
    for number, prefix in enumerate(found, 1):
        state = files_in(folder).read(prefix)
        assert state is not None
        assert np.array_equal(state, state_of(number))
    assert saved_bytes(folder) == sum(file.size for file in saved_files(folder)) > 2 * SIZE


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_only_the_owner_reads_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = written(files_in(tmp_path / "prefixes"), 1).path
    finally:
        os.umask(before)
    assert path is not None
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_another_model_has_other_files(tmp_path: Path) -> None:
    prefix = written(files_in(tmp_path), 1)
    other = files_in(tmp_path, OTHER_KEY)
    assert other.scan() == []
    assert other.read(prefix) is None


def test_files_of_another_version_or_model_are_deleted(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    old, foreign, good = (written(files, number) for number in (1, 2, 3))
    assert old.path
    assert foreign.path
    content = bytearray(old.path.read_bytes())
    content[8] += 1
    old.path.write_bytes(content)
    moved = written(files_in(tmp_path, OTHER_KEY), 2).path
    assert moved is not None
    moved.replace(foreign.path)
    assert [one.path for one in files.scan()] == [good.path]
    assert [file.path for file in saved_files(tmp_path)] == [good.path]


def test_a_file_with_another_checkpoint_is_not_read(tmp_path: Path) -> None:
    """Another server has written the same tokens; its file stays."""
    files = files_in(tmp_path)
    prefix = written(files, 1)
    other = written(files, 1)
    prefix.mark_size -= 1
    assert files.read(prefix) is None
    assert files.read(other) is not None


def test_a_file_with_other_tokens_is_not_read(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    one, two = written(files, 1), written(files, 2)
    assert one.path
    assert two.path
    two.path.replace(one.path)
    assert files.read(one) is None
    assert not one.path.exists()


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_altered_files_are_absent(tmp_path: Path, data: st.DataObject) -> None:
    """Truncated, extended, or with any bytes changed: nothing but the state that was written, or
    nothing, is ever returned, and the file is gone."""
    files = files_in(tmp_path)
    prefix = written(files, 1)
    assert prefix.path is not None
    content = bytearray(prefix.path.read_bytes())
    how = data.draw(st.sampled_from(["truncate", "extend", "flip", "overwrite"]))
    if how == "truncate":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif how == "extend":
        content += data.draw(st.binary(min_size=1, max_size=50))
    elif how == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=100))
        content[at : at + len(noise)] = noise
    changed = bytes(content) != prefix.path.read_bytes()
    prefix.path.write_bytes(content)
    found = files.scan()
    state = files.read(found[0]) if found else None
    if changed:
        assert state is None
        assert not prefix.path.exists()
    else:
        assert state is not None
        assert np.array_equal(state, state_of(1))


def test_unreadable_and_strange_files(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    prefix = written(files, 1)
    assert prefix.path is not None
    own = prefix.path.parent
    (own / "notes.txt").write_text("mine")
    (tmp_path / "letters").mkdir()
    (own / f"{'0' * 32}.prefix").mkdir()
    (own / f"{'1' * 32}.prefix").symlink_to(tmp_path / "nowhere")
    assert [one.path for one in files.scan()] == [prefix.path]
    prefix.path.unlink()
    assert files.read(prefix) is None
    delete_saved(tmp_path)
    assert (own / "notes.txt").read_text() == "mine"
    assert (tmp_path / "letters").is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users")
def test_files_of_other_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They have a right digest, and may still be anything. They are left to their owners."""
    files = files_in(tmp_path)
    mine, other = written(files, 1), written(files, 2)
    assert other.path is not None
    os.chown(other.path, 12345, 12345)
    assert [one.path for one in files_in(tmp_path).scan()] == [mine.path]
    assert files.read(other) is None
    assert other.path.exists()
    assert "another user" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_links_are_not_followed(tmp_path: Path) -> None:
    """The folder may be a link; what is in it may not."""
    real, link, elsewhere = (tmp_path / name for name in ("real", "link", "elsewhere"))
    for folder in (real, elsewhere):
        folder.mkdir()
    link.symlink_to(real)
    prefix = written(files_in(link), 1)
    assert prefix.path is not None
    (real / OTHER_KEY.hex()[:32]).symlink_to(elsewhere)
    other = files_in(link, OTHER_KEY)
    assert other.write(prefix_of(2), state_of(2)) is None
    assert list(elsewhere.iterdir()) == []
    assert len(saved_files(link)) == 1


class Lost(PrefixFiles):
    """Files that cannot be opened for a moment."""

    def _read_header(self, stream: BinaryIO) -> Any:
        raise OSError(errno.EMFILE, "too many open files")


def test_a_file_that_cannot_be_read_now_stays(tmp_path: Path) -> None:
    prefix = written(files_in(tmp_path), 1)
    lost = Lost(tmp_path, KEY, 1 << 30)
    assert lost.scan() == []
    assert lost.read(prefix) is None
    assert files_in(tmp_path).read(prefix) is not None


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    paths = [written(files_in(tmp_path), number).path for number in range(5)]
    assert {file.path for file in saved_files(tmp_path)} == set(paths[2:])


class Slow(PrefixFiles):
    """Somebody deletes all prefixes before a file is written, or when it is nearly complete."""

    early = True

    def _write(self, path: Path, *rest: Any) -> None:
        if self.early:
            delete_saved(self.folder)
        super()._write(path, *rest)
        if not self.early:
            content = path.read_bytes()
            delete_saved(self.folder)
            path.write_bytes(content)  # as if it was renamed after the files were listed


@pytest.mark.parametrize("early", [True, False])
def test_what_is_deleted_during_a_write_stays_away(tmp_path: Path, early: bool) -> None:
    files = Slow(tmp_path, KEY, 1 << 30)
    files.early = early
    assert files.write(prefix_of(1), state_of(1)) is None
    assert saved_files(tmp_path) == []
    assert files_in(tmp_path).forgotten is False
    assert PrefixFiles.write(files_in(tmp_path), prefix_of(2), state_of(2)) is not None
    # Nothing of before is written either, as long as nobody has asked.
    stale = files_in(tmp_path)
    delete_saved(tmp_path)
    assert stale.write(prefix_of(3), state_of(3)) is None
    assert stale.forgotten
    assert stale.write(prefix_of(3), state_of(3)) is not None


def test_what_is_deleted_before_the_first_write_is_noticed(tmp_path: Path) -> None:
    files = files_in(tmp_path / "new" / "prefixes")
    delete_saved(tmp_path / "new" / "prefixes")
    assert files.forgotten
    assert not files.forgotten


def test_deleting_everything(tmp_path: Path) -> None:
    for key in (KEY, OTHER_KEY):
        written(files_in(tmp_path / "prefixes", key), 1)
    size = saved_bytes(tmp_path / "prefixes")
    assert delete_saved(tmp_path / "prefixes") == (2, size)
    assert [path.name for path in (tmp_path / "prefixes").iterdir()] == ["forgotten"]
    assert delete_saved(tmp_path / "absent") == (0, 0)


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    one = written(files_in(tmp_path), 1)
    assert one.path is not None
    room = 3 * one.path.stat().st_size
    files = files_in(tmp_path, limit=room)
    two = written(files_in(tmp_path, OTHER_KEY, room), 2)
    three = written(files, 3)
    for number, prefix in enumerate((two, three, one)):
        assert prefix.path is not None
        os.utime(prefix.path, ns=(number, number))
    assert files.read(one) is not None  # it has been used now
    four = written(files, 4)
    assert {file.path for file in saved_files(tmp_path)} == {one.path, three.path, four.path}
    assert saved_bytes(tmp_path) <= room
    assert files_in(tmp_path, limit=100).write(prefix_of(5), state_of(5)) is None
    assert len(saved_files(tmp_path)) == 3


def test_a_folder_that_cannot_be_used_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    files = files_in(tmp_path / "file" / "prefixes")
    assert files.scan() == []
    for number in range(3):
        assert files.write(prefix_of(number), state_of(number)) is None
    assert len(caplog.records) == 1


LIMITED = """
import resource, sys
sys.path[:] = {path!r}
from test_prefix_files import files_in, prefix_of, state_of, saved_files, Path
folder = Path({folder!r})
files = files_in(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for number in range(3):
    assert files.write(prefix_of(number), state_of(number, 50_000)) is None
assert saved_files(folder) == []
assert files.write(prefix_of(9), state_of(9)) is not None
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_a_write_that_fails_halfway(tmp_path: Path) -> None:
    """As on a full disk: nothing is left, it is logged once, and a smaller file is written."""
    path = [str(Path(__file__).parent), *sys.path]
    code = LIMITED.format(path=path, folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the disk is full") == 1
    assert len(files_in(tmp_path).scan()) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_in(small_disk)
    kept = written(files, 1)
    for number in range(2, 6):
        big = state_of(number, 3_000_000)
        assert files.write(prefix_of(number), big) is None
    assert [record.getMessage().count("disk is full") for record in caplog.records] == [1]
    assert [file.path for file in saved_files(small_disk)] == [kept.path]
    assert files.read(kept) is not None
    # Without a limit in the settings, a tenth of the disk is used.
    auto = files_in(small_disk, limit=-1)
    for number in range(2, 9):
        assert auto.write(prefix_of(number), state_of(number, 50_000)) is not None
    assert saved_bytes(small_disk) <= 210_000


WRITING = """
import sys
sys.path[:] = {path!r}
from test_prefix_files import files_in, prefix_of, state_of, Path
files = files_in(Path({folder!r}))
state = state_of(0, 400_000)
for number in range(100_000):
    files.write(prefix_of(number % 7), state)
    print(number, flush=True)
"""


def kill_writers(folder: Path, kills: int) -> None:
    """Kill processes while they write, after different numbers of bytes; then check what is
    left."""
    path = [str(Path(__file__).parent), *sys.path]
    code = WRITING.format(path=path, folder=str(folder))
    for number in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8", cwd="/"
        ) as process:
            assert process.stdout is not None
            for _ in range(1 + number % 3):
                process.stdout.readline()
            for _ in range(200 * (number % 17)):  # up to about the time of one write
                os.stat(folder)
            process.kill()
        files = files_in(folder)
        found = files.scan()
        assert found
        for prefix in found:
            state = files.read(prefix)
            assert state is not None
            assert np.array_equal(state, state_of(0, 400_000))
        assert not any(file.partial for file in saved_files(folder))
    assert files_in(folder).write(prefix_of(99), state_of(99)) is not None


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path: Path) -> None:
    kill_writers(tmp_path, 2)


@pytest.mark.slow
def test_killed_during_100_writes(tmp_path: Path) -> None:
    """The default run has two of these kills."""
    kill_writers(tmp_path, 100)
