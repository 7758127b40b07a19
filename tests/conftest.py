"""Fixtures shared by all tests: the starter model and a real server on a free port.

Servers compute with one thread unless a test asks for more. Two threads wait for each other after
every operation, which makes a token a hundred times slower on a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts
import hypothesis
import pytest
import source_tree  # noqa: F401 - before anything is imported from the package

from offgrid.config import Settings, load_settings
from offgrid.engine.client import patience
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID, STARTER_PATH

# A slow or busy machine must not fail a test: neither running nor generating an example has a
# time limit.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_unconfigure() -> None:
    """Close the files that llama_cpp opens on import and never closes: Python would warn."""
    module = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file"):
        file = getattr(module, name, None)
        if file is not None:
            file.close()


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the settings of the person who runs the tests, and that person's configuration file and
    home: a server that gets no folder keeps responses and prefixes there."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OFFGRID_")}
    os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # what pip has fetched
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.update(saved)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the servers of this process replace every dead worker at once, without a pause."""
    monkeypatch.setattr(patience, "_PAUSES", (0.0,))


@pytest.fixture(scope="session")
def starter_path() -> Path:
    return STARTER_PATH


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Defaults, on a free port, with an empty models directory."""
    return load_settings(
        {
            "port": 0,
            "models_dir": tmp_path_factory.mktemp("models"),
            "import_roots": str(tmp_path_factory.mktemp("sticks")),
            "default_model": STARTER_ID,
            "responses_file": tmp_path_factory.mktemp("responses") / "responses.sqlite3",
            "drain_timeout": 5,
            "threads": 1,
        },
        environ={},
    )


@pytest.fixture(scope="session")
def server(settings: Settings) -> Iterator[Server]:
    """A real waitress server with the starter model, shared by all tests that do not harm it."""
    server = Server(settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def base_url(server: Server) -> str:
    return server.url


@pytest.fixture
def make_lan(tmp_path: Path) -> Iterator[Callable[[int], hosts.Lan]]:
    """Make machines that reach each other; they are removed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda number: stack.enter_context(hosts.lan(tmp_path, number))


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with the given settings; all are stopped at the end of the test."""
    servers: list[Server] = []

    def make(**flags: Any) -> Server:
        given = {
            "port": 0,
            "models_dir": tmp_path,
            "import_roots": "none",
            "responses_file": tmp_path / "responses.sqlite3",
            "drain_timeout": 0,
            "threads": 1,
            **flags,
        }
        if not any(Path(given["models_dir"]).rglob("*.gguf")):
            given.setdefault("default_model", STARTER_ID)
        server = Server(load_settings(given, environ={}))
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.stop()
