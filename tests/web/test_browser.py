"""The web page in Chromium, against real servers: one case for each file of ``browser/``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_tests import run_node_tests
from page_server import controlling

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "browser").glob("*.test.mjs"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address where the tests ask for servers."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}; install it, or name it in CHROMIUM")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("first: npm ci --prefix tests/web --ignore-scripts")
    with controlling(tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.mark.parametrize("file", FILES)
def test_in_chromium(control: str, file: str) -> None:
    run_node_tests(HERE / "browser" / file, OFFGRID_CONTROL=control, CHROMIUM=CHROMIUM)
