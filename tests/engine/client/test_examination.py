"""Examination of a model file in a separate process: its findings and its messages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import no_threads
from tiny_models import make

from offgrid.engine.client.examination import Examination
from offgrid.engine.protocol.commands import Load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("tiny"))


def test_a_model_that_can_be_loaded(tiny: Path) -> None:
    assert Examination(Load(str(tiny)), 60).run() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("a tensor of another shape", "wrong shape"),
        ("no header", "does not load"),
        ("gone", "not there any more"),
    ],
)
def test_a_file_that_cannot_be_loaded(tiny: Path, tmp_path: Path, fault: str, reason: str) -> None:
    """The weights are not read, and the message contains no path."""
    path = tmp_path / "broken.gguf"
    name = b"llama.feed_forward_length"
    at = tiny.read_bytes().index(name) + len(name) + 4
    data = bytearray(tiny.read_bytes())
    if fault == "a tensor of another shape":
        data[at] += 1
    elif fault == "no header":
        data = bytearray(b"GGUF" + bytes(200))
    if fault != "gone":
        path.write_bytes(data)
    failed = Examination(Load(str(path)), 60).run()
    assert failed is not None
    assert failed.lasting
    assert reason in failed.message
    assert str(tmp_path) not in failed.message


def test_an_examination_ends_when_the_server_stops(tiny: Path) -> None:
    """Its process is killed, so it says nothing about the file."""
    examination = Examination(Load(str(tiny)), 60)
    examination.stop()
    failed = examination.run()
    assert failed is not None
    assert not failed.lasting


@pytest.mark.parametrize("thread", ["worker-log", "examination-limit"])
def test_an_examination_leaves_no_process_if_no_thread_can_be_started(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    """As under a process limit: the file is not to blame."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    no_threads(monkeypatch, thread)
    failed = Examination(Load(str(tiny)), 60).run()
    assert failed is not None
    assert failed.message == "the system cannot start a process for it (can't start new thread)."
    assert not failed.lasting
    (process,) = started
    assert process.returncode is not None
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        assert pipe.closed
