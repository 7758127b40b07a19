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


def test_a_known_hash_stands_for_the_file(file: Path) -> None:
    before = file_identity(file, "0123")
    file.write_bytes(b"moved or copied")
    assert file_identity(file, "0123") == before


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
