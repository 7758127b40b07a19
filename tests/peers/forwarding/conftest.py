"""Pairs of machines of which only one has a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forwarded import FarModel, Pair, give_model, introduce
from machines import Machine
from support import STARTER

from offgrid.config import load_settings
from offgrid.server import Server


@pytest.fixture(scope="module")
def far_model() -> FarModel:
    """The model of the far machines; modules may have another one."""
    return FarModel(give_model, {})


@pytest.fixture
def make_far(
    make_machine: Callable[..., Machine], far_model: FarModel, tmp_path: Path
) -> Callable[..., Machine]:
    """Start machines that have the model."""

    def make(name: str = "far", **flags: Any) -> Machine:
        (tmp_path / name / "models").mkdir(parents=True)
        far_model.give(tmp_path / name / "models")
        return make_machine(name, **{**far_model.settings, **flags})

    return make


@pytest.fixture
def pair(make_machine: Callable[..., Machine], make_far: Callable[..., Machine]) -> Pair:
    """Two machines that know each other, for tests that harm them."""
    made = Pair(make_machine("near"), make_far())
    introduce(made.near, made.far)
    return made


def serve(folder: Path, name: str, **flags: Any) -> Server:
    """Start a server with peers on that outlives a test."""
    settings = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "import_roots": "none", "drain_timeout": 0, "threads": 1, "peers": True,
        "peers_host": "127.0.0.1", "peers_port": 0, "peers_name": name, "peers_discovery": False,
        "parallel": 4, **flags,
    }  # fmt: skip
    server = Server(load_settings(settings, environ={}))
    server.start()
    return server


@pytest.fixture(scope="module")
def lasting_near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for all tests of a module that do not harm it."""
    server = serve(tmp_path_factory.mktemp("near"), "near", default_model=STARTER)
    yield Machine(server)
    server.stop()


@pytest.fixture(scope="module")
def lasting_pair(
    lasting_near: Machine, far_model: FarModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """It, and another one with the model."""
    folder = tmp_path_factory.mktemp("far")
    far_model.give(folder)
    server = serve(folder, "far", **far_model.settings)
    far = Machine(server)
    introduce(lasting_near, far)
    yield Pair(lasting_near, far)
    server.stop()
