"""Copies from a peer to a disk that is full. Mounting one needs an administrator."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import Machine
from sticks import content, hidden, put, visible
from support import Json, request

from offgrid.store.disk import Disk

OLD, NEW = content(1, 3_000_000), content(2, 3_000_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A models directory on a disk of 26 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=26m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    put(folder / "a.gguf", OLD)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def post(near: Machine, *ids: str) -> Json:
    body = {"peer": "far", "ids": ids, "replace": True}
    made: Json = request(near.server.url, "POST", "/v1/import", body).json
    return made


@pytest.mark.slow
def test_a_disk_that_others_fill_during_the_copy(
    make_machine: Callable[..., Machine], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = make_machine("near", models_dir=disk), make_machine("far")
    near.know(far)
    put(far.models / "a.gguf", NEW)
    put(far.models / "big.gguf", content(3, 12_000_000))
    filler, write = disk / "filler", Disk.write

    def fill(self: Disk, file: object, data: bytes) -> None:
        if len(data) > 100_000 and not filler.exists():
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as other:
                while True:
                    other.write(bytes(2**16))
        write(self, file, data)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", fill)
        (failed,) = post(near, "a")["files"]
    assert (failed["status"], failed["code"]) == ("failed", "disk_full")
    filler.unlink()
    assert visible(disk) == {"a.gguf": OLD}
    assert hidden(disk) == []  # the room belongs to others again
    made = post(near, "a", "big")
    assert (made["status"], made["error"]["code"], made["files"]) == ("failed", "disk_full", [])
    assert post(near, "a")["status"] == "completed"
    assert visible(disk) == {"a.gguf": NEW}
