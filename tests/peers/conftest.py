"""Machines that know each other without a pairing, for tests of everything after one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machines import Machine

from offgrid.server import Server


@pytest.fixture
def make_machine(make_server: Callable[..., Server], tmp_path: Path) -> Callable[..., Machine]:
    """Start servers on loopback with peers on, each with folders of its own."""

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
