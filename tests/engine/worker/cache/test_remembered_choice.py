"""A model is loaded with the flash attention of its last load, so that its saved prefixes fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from offgrid.engine.attention import Choice
from offgrid.engine.protocol import Load
from offgrid.engine.saved_prefixes import CHOICE_SUFFIX, delete_saved
from offgrid.engine.worker.llama.model import Model


def choice_of(path: Path, folder: Path, **fields: Any) -> Choice:
    own = {"parallel": 1, "cache_dir": str(folder), "cache_disk": -1}
    load = Load(str(path), ctx_size=256, threads=1, **{**own, **fields})
    model = Model(load)
    try:
        return model.attention
    finally:
        model.close()


def test_the_choice_of_the_last_load_is_used(starter_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    measured = choice_of(starter_path, folder)
    (file,) = folder.glob(f"*{CHOICE_SUFFIX}")
    other = Choice(not measured.on, "an earlier measurement")
    file.write_bytes(msgspec.json.encode(other))
    assert choice_of(starter_path, folder) == other
    assert choice_of(starter_path, folder, parallel=2) == measured
    assert choice_of(starter_path, folder, cache_disk=0) == measured
    file.write_bytes(b"damaged")
    assert choice_of(starter_path, folder) == measured
    assert choice_of(starter_path, folder) == measured
    delete_saved(folder)
    assert [*folder.glob(f"*{CHOICE_SUFFIX}")] == []


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_setting_needs_no_memory(starter_path: Path, tmp_path: Path, setting: str) -> None:
    assert choice_of(starter_path, tmp_path, flash_attention=setting).on == (setting == "on")
    assert [*tmp_path.iterdir()] == []
