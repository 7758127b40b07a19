"""Tests through third-party clients. They run only when asked for: ``pytest -m clients``."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# LiteLLM would fetch a table of prices when it is imported, and wait for an answer.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def _asked(config: pytest.Config) -> bool:
    wanted = config.option.markexpr
    return not wanted or bool(re.search(r"(?<!not )\bclients\b", wanted))


def pytest_configure(config: pytest.Config) -> None:
    """Some clients leave connections and event loops to the garbage collector."""
    if _asked(config):
        config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)  # After the last test.


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip these files unless they are selected, so that their libraries are not needed."""
    return None if _asked(config) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
