"""Machines that know each other without a pairing, for tests of everything after one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Machine
from support import TIMEOUT

from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID


@pytest.fixture
def make_machine(make_server: Callable[..., Server], tmp_path: Path) -> Callable[..., Machine]:
    """Start servers on loopback with peers on, each with its folders."""

    def make(name: str, **flags: Any) -> Machine:
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True, exist_ok=True)
        given = {
            "models_dir": folder / "models",
            "responses_file": folder / "responses.sqlite3",
            "peers": True, "peers_host": "127.0.0.1", "peers_port": 0, "peers_name": name,
            "peers_discovery": False, **flags,
        }  # fmt: skip
        return Machine(make_server(**given))

    return make


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two machines for all tests of a module."""
    made = []
    for name in ("near", "far"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "models").mkdir()
        flags = {
            "port": 0, "models_dir": folder / "models", "import_roots": "none",
            "responses_file": folder / "responses.sqlite3", "default_model": STARTER_ID,
            "drain_timeout": 0, "threads": 1, "peers": True, "peers_host": "127.0.0.1",
            "peers_port": 0, "peers_name": name, "peers_discovery": False,
        }  # fmt: skip
        made.append(Machine(Server(load_settings(flags, environ={}))))
        made[-1].server.start()
    yield made[0], made[1]
    for machine in made:
        machine.server.stop()


@pytest.fixture
def pair(shared_pair: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    """Two machines that know each other, near and far; their models directories are empty."""
    near, far = shared_pair
    for machine in shared_pair:
        running = machine.server.imports.running
        if running is not None and running.thread is not None:
            running.thread.join(TIMEOUT)
        for peer in machine.peers.book.all():
            machine.peers.book.remove(peer.fingerprint)
        shutil.rmtree(machine.models)
        machine.models.mkdir()
    near.know(far)
    near.reach(far, far.peers.port)  # not where an earlier test let it be found
    return near, far
