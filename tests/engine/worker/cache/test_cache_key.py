"""The key of saved prefixes changes with everything that makes a state unfit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from offgrid.engine.worker.cache.key import cache_key, file_identity

SIZE = 3 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(SIZE))
    return path


def key(file: Path, **changes: Any) -> bytes:
    given = {
        "files": [(file, "")],
        "adapters": [(file, 1.0)],
        "context": [("n_ctx", "4096"), ("type_k", "1")],
        "build": ["0.3.36", "AVX2 = 1"],
    }
    return cache_key(**{**given, **changes})


def test_every_part_counts(file: Path) -> None:
    keys = [
        key(file),
        key(file, files=[(file, "0123")]),
        key(file, files=[(file, ""), (file, "")]),
        key(file, adapters=[]),
        key(file, adapters=[(file, 0.5)]),
        key(file, adapters=[(file, 1.0), (file, 1.0)]),
        key(file, context=[("n_ctx", "4096"), ("type_k", "8")]),
        key(file, context=[("n_ctx", "2048"), ("type_k", "1")]),
        key(file, build=["0.3.37", "AVX2 = 1"]),
        key(file, build=["0.3.36", "AVX512 = 1"]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(file) == keys[0]
    assert {len(one) for one in keys} == {32}


def test_a_known_hash_stands_for_the_times(file: Path, tmp_path: Path) -> None:
    """A file may be copied or moved; but where another one took its place, the hash is wrong."""
    before = file_identity(file, "0123")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(1, 1))
    assert file_identity(copy, "0123") == before != file_identity(copy, "4567")
    copy.write_bytes(os.urandom(SIZE))
    assert file_identity(copy, "0123") != before


def test_a_file_with_equal_size_and_time_took_its_place(file: Path, tmp_path: Path) -> None:
    """They differ in a byte that no sample contains; only the time of change tells."""
    before, status = file_identity(file), file.stat()
    content = bytearray(file.read_bytes())
    content[(1 << 20) + 20_000] ^= 1
    other = tmp_path / "other.gguf"
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert file_identity(file) != before


@pytest.mark.parametrize("change", ["beginning", "end", "size", "time"])
def test_other_files_are_recognised_without_it(file: Path, change: str) -> None:
    before = file_identity(file)
    assert file_identity(file) == before
    content, status = bytearray(file.read_bytes()), file.stat()
    if change == "size":
        content = content[: SIZE // 2]
    else:
        content[-1 if change == "end" else 100] ^= change != "time"
    file.write_bytes(content)
    later = status.st_mtime_ns + (change == "time")
    os.utime(file, ns=(status.st_atime_ns, later))
    assert file_identity(file) != before
