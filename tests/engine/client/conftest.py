"""Pools of engines with small models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import Clock, MakePool, pools
from tiny_models import make


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_pool(tiny: Path, tmp_path: Path, clock: Clock) -> Iterator[MakePool]:
    """Make pools with the models a to d, which are copies of one file."""
    with pools(tmp_path, tiny, clock) as make_one:
        yield make_one
