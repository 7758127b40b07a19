"""Stores of the history in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offgrid.store.history.store import HistoryStore


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., HistoryStore]]:
    """Open stores on the file ``h.sqlite3`` of the test."""
    stores: list[HistoryStore] = []

    def make(max_bytes: int = 1 << 30, **more: Any) -> HistoryStore:
        stores.append(HistoryStore(tmp_path / "h.sqlite3", max_bytes, **more))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Callable[..., HistoryStore]) -> HistoryStore:
    return make()
