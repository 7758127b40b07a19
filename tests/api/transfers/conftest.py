"""A server with a models directory and one stick; each test finds both empty."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from held_writes import Gate, closed_gate
from support import STARTER, TIMEOUT

from offgrid.config import load_settings
from offgrid.server import Server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a module; each finds its folders empty."""
    folder = tmp_path_factory.mktemp("transfers")
    for name in ("media", "models"):
        (folder / name).mkdir()
    flags = {
        "port": 0, "models_dir": folder / "models", "import_roots": str(folder / "media"),
        "responses_file": folder / "responses.sqlite3", "model": STARTER,
        "drain_timeout": 0, "threads": 1,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served(shared: Server) -> Server:
    for left in (shared.imports.running, shared.exports.running):
        if left is not None and left.thread is not None:
            left.thread.join(TIMEOUT)
    folder = shared.settings.models_dir.parent
    for path in (*folder.glob("models/*"), *folder.glob("media/*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(folder / "private", ignore_errors=True)
    (folder / "media/stick").mkdir()
    return shared


@pytest.fixture
def stick(served: Server) -> Path:
    return served.settings.models_dir.parent / "media/stick"


@pytest.fixture
def models(served: Server) -> Path:
    return served.settings.models_dir


@pytest.fixture
def url(served: Server) -> str:
    return served.url


@pytest.fixture
def gate() -> Iterator[Gate]:
    with closed_gate() as made:
        yield made
