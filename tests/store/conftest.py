"""Folders for a stick and for models. Commands remember hashes in a file of the test, not in the
home."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_hashes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    file: Path = tmp_path_factory.mktemp("home") / "responses.sqlite3"
    monkeypatch.setenv("OFFGRID_RESPONSES_FILE", str(file))


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder
