"""Servers that are started as a user starts them. Commands remember hashes in a file of the test,
not in the home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Serve, starting


@pytest.fixture(autouse=True)
def _own_hashes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    file: Path = tmp_path_factory.mktemp("home") / "responses.sqlite3"
    monkeypatch.setenv("OFFGRID_RESPONSES_FILE", str(file))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(models: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start servers with flags and variables; all are ended after the test."""
    with starting(models, tmp_path) as start:
        yield start
