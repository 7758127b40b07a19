"""What was measured of a model is used by its next load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from offgrid.engine.attention import Choice
from offgrid.engine.protocol.commands import Load
from offgrid.engine.saved_prefixes import CHOICE_SUFFIX, COSTS_SUFFIX, delete_saved
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.remembered import remember_costs, remembered_costs


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


def test_the_costs_of_rows(starter_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    load = Load(str(starter_path), ctx_size=256, parallel=1, threads=1, flash_attention="off",
                cache_dir=str(folder), cache_disk=-1)  # fmt: skip
    model = Model(load)
    try:
        assert remembered_costs(model) == {}
        remember_costs(model, {1: 1.0})  # says nothing
        remember_costs(model, {4: 1.0, 8: 1.5})  # relative to what?
        assert remembered_costs(model) == {}
        remember_costs(model, {16: 16.0, 1: 2.0})
        assert remembered_costs(model) == {1: 1.0, 16: 8.0}
        (file,) = folder.glob(f"*{COSTS_SUFFIX}")
        for wrong in (b"", b"[]", b'{"1": 1.0, "2": 900.0}', b'{"1": 1.0, "0": 1.0}', b'{"2": 1}'):
            file.write_bytes(wrong)
            assert remembered_costs(model) == {}
        remember_costs(model, {1: 1.0, 2: 1.5})
        model.load = structs.replace(load, kv_type_k="q8_0")  # other steps
        assert remembered_costs(model) == {}
        model.load = structs.replace(load, cache_disk=0)
        remember_costs(model, {1: 1.0, 2: 1.7})
        assert remembered_costs(model) == {}
        model.load = load
        assert remembered_costs(model) == {1: 1.0, 2: 1.5}
        delete_saved(folder)
        assert remembered_costs(model) == {}
    finally:
        model.close()
