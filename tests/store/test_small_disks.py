"""Imports into a file system that is full or read-only. Mounting one needs an administrator."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sticks import content, hidden, manifest, put, visible

from offgrid.errors import TransferError
from offgrid.store.imports import import_models
from offgrid.store.progress import Phase

OLD, NEW = content(1, 3_000_000), content(2, 3_000_000)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """A models directory on a disk of 26 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=26m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    put(folder / "a.gguf", OLD)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    put(tmp_path / "stick/a.gguf", NEW)
    manifest(tmp_path / "stick")
    return tmp_path / "stick"


def test_a_disk_that_others_fill_during_the_copy(stick: Path, models: Path) -> None:
    filler = models / "filler"

    def fill(name: str, phase: Phase, done: int, total: int) -> None:
        if phase == "copying" and not filler.exists():
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(2**16))

    (outcome,) = import_models([stick], models, replace=True, report=fill)
    assert (outcome.status, outcome.code) == ("failed", "disk_full")
    filler.unlink()
    assert visible(models) == {"a.gguf": OLD}
    assert hidden(models) == []
    (outcome,) = import_models([stick], models, replace=True)
    assert outcome.status == "imported"
    assert visible(models) == {"a.gguf": NEW}


def test_a_model_that_does_not_fit(stick: Path, models: Path) -> None:
    put(stick / "b.gguf", content(3, 9_000_000))
    with pytest.raises(TransferError, match="are needed and") as ex:
        import_models([stick], models, replace=True)
    assert ex.value.code == "disk_full"
    assert visible(models) == {"a.gguf": OLD}


def test_a_read_only_disk(stick: Path, models: Path) -> None:
    mount("-o", "remount,ro", str(models))
    (outcome,) = import_models([stick], models, replace=True)
    assert (outcome.status, outcome.code) == ("failed", "unwritable")
    put(stick / "a.gguf", OLD)
    (stick / "manifest.json").unlink()
    (outcome,) = import_models([stick], models)
    assert outcome.status == "identical"
