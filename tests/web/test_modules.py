"""Modules of the web page that need no browser: one case for each test file of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_tests import run_node_tests

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("*.test.mjs"))


@pytest.mark.parametrize("file", FILES)
def test_module(file: str) -> None:
    run_node_tests(HERE / file)
