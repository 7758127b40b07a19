"""Tests through third-party clients. They run only when asked for: ``pytest -m clients``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip these files unless they are selected, so that their libraries are not needed."""
    wanted = config.option.markexpr
    asked = not wanted or re.search(r"(?<!not )\bclients\b", wanted)
    return None if asked else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
