"""Files that would be of no use in the models directory are not imported, and replace nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from sticks import PARTS, content, hidden, manifest, put, split_model, visible, wheel

from offgrid.config import load_settings
from offgrid.store.catalogue import Catalogue
from offgrid.store.imports import Outcome, import_models
from offgrid.store.progress import Phase

GOOD = content(1, 200_000)
CUT = content(2, 200_000)[:-1]


def made(path: Path, architecture: str, kind: str = "", tensors: int = 1) -> Path:
    """A file whose header says what it is."""
    writer = gguf.GGUFWriter(path, architecture)
    if kind:
        writer.add_type(kind)
    for number in range(tensors):
        writer.add_tensor(f"tensor.{number}", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def outcome(stick: Path, models: Path, *, replace: bool = True) -> Outcome:
    (found,) = import_models([stick], models, replace=replace)
    return found


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (CUT, "the file is cut off: it has 199,999 of 200,000 bytes. Make a new copy of it."),
        (CUT[:60], "the file is cut off: it ends within its header. Make a new copy of it."),
        (GOOD[:4] + b"\1" + GOOD[5:], "its GGUF version 1 is not known. Make a new copy of it."),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_is_refused(
    stick: Path, models: Path, data: bytes, reason: str, listed: bool, packed: bool
) -> None:
    """Before it is copied, unless its hash is known or it is in a wheel."""
    if packed:
        wheel(stick / "m-1-py3-none-any.whl", {"m/a.gguf": data})
    else:
        put(stick / "a.gguf", data)
    if listed:
        manifest(stick)
    put(models / "a.gguf", GOOD)
    copied: list[int] = []

    def report(name: str, phase: Phase, done: int, total: int) -> None:
        if phase == "copying":
            copied.append(done)

    (found,) = import_models([stick], models, replace=True, report=report)
    assert (found.status, found.code) == ("failed", "unusable")
    assert found.reason.endswith(f"a.gguf: {reason}")
    assert bool(copied) == (listed or packed)
    assert visible(models) == {"a.gguf": GOOD}
    assert hidden(models) == []


def test_the_catalogue_agrees(stick: Path, models: Path) -> None:
    """What is refused is what it calls unusable."""
    put(stick / "a.gguf", CUT)
    put(stick / "b.gguf", GOOD)
    found = {o.name: o.status for o in import_models([stick], models)}
    assert found == {"a.gguf": "failed", "b.gguf": "imported"}
    catalogue = Catalogue(load_settings({"models_dir": stick}, environ={}))
    faults = {entry.id: catalogue.fault(entry) for entry in catalogue.entries()}
    assert faults["b"] is None
    assert str(faults["a"]).startswith("the file is cut off")


def test_hash_and_size_of_a_manifest_decide_first(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", CUT)
    manifest(stick, **{"a.gguf": {"sha256": "0" * 64}})
    assert outcome(stick, models).code == "wrong_hash"
    manifest(stick, **{"a.gguf": {"size": 200_000}})
    assert "but manifest.json says 200000" in outcome(stick, models).reason


def test_a_cut_off_file_that_is_there_already_is_not_called_identical(
    stick: Path, models: Path
) -> None:
    put(stick / "a.gguf", CUT)
    put(models / "a.gguf", CUT)
    found = outcome(stick, models)
    assert (found.status, found.code) == ("failed", "unusable")


def test_the_next_import_finishes_the_work(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", CUT)
    assert outcome(stick, models).status == "failed"
    put(stick / "a.gguf", GOOD)
    assert outcome(stick, models).status == "imported"
    assert visible(models) == {"a.gguf": GOOD}


def test_a_cut_off_part_of_a_split_model(stick: Path, models: Path) -> None:
    """Neither its other parts are imported, nor does a part of it replace a good one."""
    parts = split_model(stick, 10)
    put(stick / PARTS[1], parts[PARTS[1]][:-1])
    found = outcome(stick, models)
    assert (found.status, found.code) == ("failed", "unusable")
    assert f"{PARTS[1]}: the file is cut off" in found.reason
    assert (visible(models), hidden(models)) == ({}, [])
    for name, data in parts.items():
        put(models / name, data)
    assert outcome(stick, models).code == "unusable"
    assert visible(models) == parts


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        (
            "a.gguf",
            lambda path: made(path, "llama", "imatrix"),
            "it is an importance matrix and not a model. Choose another file.",
        ),
        (
            "a.gguf",
            lambda path: made(path, "llama", tensors=0),
            "it contains a vocabulary, but no weights. Choose another file.",
        ),
        (
            "a.gguf",
            lambda path: made(path, "clip"),
            "it is a projector (mmproj) and not a model. Give it a name that contains mmproj, "
            "such as mmproj-MODEL.gguf.",
        ),
        (
            "a-00001-of-00001.gguf",
            lambda path: made(path, ""),
            "its header names no architecture. Choose another file.",
        ),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    stick: Path, models: Path, name: str, make: Callable[[Path], Path], reason: str
) -> None:
    make(stick / name)
    found = outcome(stick, models)
    assert (found.status, found.code) == ("failed", "unusable")
    assert found.reason == f"{stick / name}: {reason}"
    assert (visible(models), hidden(models)) == ({}, [])


def test_projectors_adapters_and_parts_without_metadata_are_imported(
    stick: Path, models: Path
) -> None:
    put(stick / "m.gguf", GOOD)
    made(stick / "mmproj-m.gguf", "clip", "mmproj")
    made(stick / "adapter.gguf", "llama", "adapter")
    made(stick / "big-00001-of-00002.gguf", "llama", tensors=0)
    made(stick / "big-00002-of-00002.gguf", "")
    assert {o.status for o in import_models([stick], models)} == {"imported"}
    assert len(visible(models)) == 5
