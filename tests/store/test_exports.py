"""Exports to sticks, and the way back; verify and remove."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner, Result
from sticks import content, hidden, put, sha256, visible

from offgrid.cli import main
from offgrid.store import disk

A, B, C, D = (content(seed, 100_000) for seed in range(4))
Run = Callable[..., Result]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models directory with a split model, one in a subfolder, and one with a projector."""
    folder = tmp_path / "models"
    put(folder / "sub/a.gguf", A)
    put(folder / "big-00001-of-00002.gguf", B)
    put(folder / "big-00002-of-00002.gguf", C)
    put(folder / "eyes/e.Q4_K_M.gguf", D)
    put(folder / "eyes/mmproj-f16.gguf", A)
    return folder


@pytest.fixture
def run(models: Path) -> Run:
    """Run ``offgrid`` with the models directory."""

    def invoke(*arguments: object, where: Path = models) -> Result:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(main, [*words, "--models-dir", str(where)])

    return invoke


def test_export_then_import_restores_ids_and_bytes(
    run: Run, models: Path, stick: Path, tmp_path: Path
) -> None:
    result = run("export", stick)
    assert result.exit_code == 0, result.output
    assert hidden(stick) == []
    written = json.loads((stick / "offgrid-models/manifest.json").read_text(encoding="utf-8"))
    assert written["version"] == "1.0"
    assert written["total_models"] == 4
    (row,) = (row for row in written["models"] if row["file_name"] == "eyes/e.Q4_K_M.gguf")
    assert row == {
        "file_name": "eyes/e.Q4_K_M.gguf", "model_id": "eyes/e.Q4_K_M", "quantization": "Q4_K_M",
        "size": len(D), "sha256": sha256(D),
    }  # fmt: skip
    other = tmp_path / "other"
    assert run("import", stick, where=other).exit_code == 0
    expected = visible(models)
    expected["eyes/mmproj-e.Q4_K_M.gguf"] = expected.pop("eyes/mmproj-f16.gguf")
    assert visible(other) == expected
    lists = [json.loads(run("list", "--json", where=w).stdout)["models"] for w in (models, other)]
    assert [m["id"] for m in lists[0]] == [m["id"] for m in lists[1]]
    again = run("export", stick)
    assert again.exit_code == 0
    assert "4 identical" in again.output


@pytest.mark.parametrize("name", ["sub/a", "SUB/A.gguf", "sub/a.gguf", "su"])
def test_one_model(run: Run, stick: Path, name: str) -> None:
    assert run("export", stick, name).exit_code == 0
    assert visible(stick / "offgrid-models") == {"sub/a.gguf": A}
    assert "offgrid import" in (stick / "README.txt").read_text(encoding="utf-8")


def test_the_draft_model_of_a_model_goes_with_it(run: Run, stick: Path, tmp_path: Path) -> None:
    """Whether it is in the models directory or elsewhere, and only once."""
    put(tmp_path / "elsewhere/small.gguf", B)
    config = tmp_path / "my.toml"
    config.write_text(
        '[models."sub/a"]\ndraft_model = "elsewhere/small.gguf"\n'
        '[models.two]\nbase = "sub/a"\ndraft_model = "big-00001-of-00002"\n',
        encoding="utf-8",
    )
    result = run("export", stick, "sub/a", "--config", config)
    assert result.exit_code == 0, result.output
    assert visible(stick / "offgrid-models") == {
        "sub/a.gguf": A, "small.gguf": B,
        "big-00001-of-00002.gguf": B, "big-00002-of-00002.gguf": C,
    }  # fmt: skip
    assert run("export", stick, "--config", config).exit_code == 0


def test_a_draft_model_that_is_absent_is_named(run: Run, stick: Path, tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text('[models."sub/a"]\ndraft_model = "gone.gguf"\n', encoding="utf-8")
    result = run("export", stick, "sub/a", "--config", config)
    assert result.exit_code == 1
    assert "gone" in result.output
    assert visible(stick / "offgrid-models") == {"sub/a.gguf": A}


def test_settings_that_cannot_be_used_hinder_no_export(
    run: Run, stick: Path, tmp_path: Path
) -> None:
    config = tmp_path / "my.toml"
    config.write_text('model = "none"\ndraft_model = "big-00001-of-00002"\n', encoding="utf-8")
    assert run("export", stick, "sub/a", "--config", config).exit_code == 0
    assert visible(stick / "offgrid-models") == {"sub/a.gguf": A}


def test_an_unknown_model(run: Run, stick: Path) -> None:
    result = run("export", stick, "x")
    assert result.exit_code == 2
    assert "no model 'x'; the ids are: " in result.output
    assert list(stick.iterdir()) == []


def test_a_stick_that_is_not_mounted(run: Run, stick: Path) -> None:
    result = run("export", stick / "usb")
    assert result.exit_code == 2
    assert "is not a folder" in result.output
    assert list(stick.iterdir()) == []


def test_an_empty_models_directory(run: Run, stick: Path, tmp_path: Path) -> None:
    """The starter is part of every installation and is not exported unasked."""
    result = run("export", stick, where=tmp_path / "none")
    assert result.exit_code == 2
    assert "contains no models" in result.output


def test_a_missing_part_fails_and_the_rest_is_exported(run: Run, models: Path, stick: Path) -> None:
    (models / "big-00002-of-00002.gguf").unlink()
    result = run("export", stick)
    assert result.exit_code == 1
    assert "its part big-00002-of-00002.gguf is missing" in result.output
    assert "sub/a.gguf" in visible(stick / "offgrid-models")


def test_a_single_part_that_is_replaced_is_named(run: Run, models: Path, stick: Path) -> None:
    run("export", stick)
    put(models / "big-00002-of-00002.gguf", D)
    result = run("export", stick, "big", "--replace")
    assert result.exit_code == 0
    assert "only big-00002-of-00002.gguf was copied; the other parts were there" in result.output


def test_a_cut_off_model_is_not_exported(run: Run, models: Path, stick: Path) -> None:
    put(models / "sub/a.gguf", A[:-1])
    result = run("export", stick, "sub/a")
    assert result.exit_code == 1
    assert "a.gguf: the file is cut off: it has 99,999 of 100,000 bytes" in result.output
    assert "sub/a.gguf" not in visible(stick / "offgrid-models")


def test_fat32_refuses_large_files_before_the_first_copy(
    run: Run, models: Path, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(stick), fstype="vfat"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert disk.largest_file(stick / "x") == 2**32 - 1
    assert disk.largest_file(models) is None
    with (models / "huge.gguf").open("wb") as file:
        file.write(A)
        file.truncate(2**32)  # sparse
    result = run("export", stick)
    assert result.exit_code == 1
    assert "exFAT" in result.output
    assert visible(stick) == {}
    assert run("export", stick, "sub/a").exit_code == 0


def test_a_model_that_was_damaged_on_this_disk_is_not_exported(
    run: Run, models: Path, stick: Path
) -> None:
    assert run("verify", "--update").exit_code == 0
    put(models / "sub/a.gguf", B)
    result = run("export", stick, "sub/a")
    assert result.exit_code == 1
    assert "'offgrid verify --update'" in result.output
    assert visible(stick / "offgrid-models") == {}


def test_the_configuration_travels_on_request(run: Run, stick: Path, tmp_path: Path) -> None:
    result = run("export", stick, "sub/a", "--with-config")
    assert result.exit_code == 2
    assert "no configuration file" in result.output
    config = tmp_path / "my.toml"
    config.write_text("parallel = 2\n", encoding="utf-8")
    assert run("export", stick, "sub/a", "--with-config", "--config", config).exit_code == 0
    assert (stick / "offgrid.toml").read_text(encoding="utf-8") == "parallel = 2\n"


class TestVerify:
    """``offgrid verify`` compares files with their manifest."""

    def test_it_names_each_kind_of_trouble(self, run: Run, models: Path) -> None:
        assert run("verify", "--update").exit_code == 0
        assert run("verify").exit_code == 0
        put(models / "sub/a.gguf", B)
        put(models / "eyes/e.Q4_K_M.gguf", D[:-1])
        (models / "eyes/mmproj-f16.gguf").unlink()
        put(models / "new.gguf", A)
        put(models / ".old.gguf.part", A)
        result = run("verify", "--json")
        assert result.exit_code == 1
        events = [json.loads(line) for line in result.stdout.splitlines()]
        states = {event["name"]: event["status"] for event in events if event["event"] == "file"}
        assert states == {
            "sub/a.gguf": "damaged", "eyes/e.Q4_K_M.gguf": "damaged",
            "eyes/mmproj-f16.gguf": "missing", "new.gguf": "unlisted",
            ".old.gguf.part": "partial", "big-00001-of-00002.gguf": "ok",
            "big-00002-of-00002.gguf": "ok",
        }  # fmt: skip
        assert run("verify", "--update").exit_code == 1  # one is still missing
        assert run("verify").exit_code == 0

    def test_a_stick(self, run: Run, stick: Path) -> None:
        run("export", stick)
        assert run("verify", stick).exit_code == 0
        put(stick / "offgrid-models/sub/a.gguf", B)
        result = run("verify", stick)
        assert result.exit_code == 1
        assert "damaged   sub/a.gguf: its SHA-256 is" in result.output

    def test_a_folder_without_a_manifest(self, run: Run, models: Path) -> None:
        assert "no manifest.json lists models" in run("verify").output
        result = run("verify", models / "none")
        assert (result.exit_code, "none does not exist" in result.output) == (2, True)
        put(models / "manifest.json", b'{"name": "another program"}')
        result = run("verify", "--update")
        assert result.exit_code == 1
        assert "another program" in result.output


class TestRemove:
    """``offgrid remove`` deletes all files of a model and nothing else."""

    def test_a_split_model(self, run: Run, models: Path) -> None:
        put(models / "big.gguf", A)
        run("verify", "--update")
        assert run("remove", "big-00001-of-00002", "--yes").exit_code == 0
        assert {name for name in visible(models) if "big" in name} == {"big.gguf"}
        assert run("verify").exit_code == 0

    def test_a_projector_goes_with_its_model_only_if_it_is_named_so(
        self, run: Run, models: Path
    ) -> None:
        put(models / "eyes/mmproj-e.Q4_K_M.gguf", B)
        assert run("remove", "eyes/e.Q4_K_M", "--yes").exit_code == 0
        assert os.listdir(models / "eyes") == ["mmproj-f16.gguf"]

    def test_the_manifest_outlives_the_last_model(self, run: Run, models: Path) -> None:
        for path in models.rglob("*.gguf"):
            path.unlink()
        assert run("verify", "--update").exit_code == 0
        put(models / "new.gguf", D)
        assert run("verify", "--update").exit_code == 0
        assert "new.gguf" in run("verify").output

    def test_it_asks_first(self, run: Run, models: Path) -> None:
        result = run("remove", "sub/a")
        assert result.exit_code == 2
        assert "--yes" in result.output
        assert (models / "sub/a.gguf").exists()

    def test_without_a_question_an_id_is_not_completed(self, run: Run, models: Path) -> None:
        result = run("remove", "su", "--yes")
        assert result.exit_code == 2
        assert "only a beginning is given" in result.output
        assert (models / "sub/a.gguf").exists()
        asked = run("remove", "SUB/A.gguf", "--json")
        assert asked.exit_code == 2
        assert "add --yes" in asked.output
        removed = run("remove", "SUB/A.gguf", "--yes", "--json")
        assert removed.exit_code == 0
        assert json.loads(removed.stdout) == {
            "removed": ["sub/a"],
            "files": [str(models / "sub/a.gguf")],
            "bytes_freed": len(A),
        }
        assert not (models / "sub/a.gguf").exists()

    def test_unknown_models(self, run: Run, models: Path) -> None:
        before = visible(models)
        for name in ("x", "../models/sub/a", "offgrid-starter"):
            result = run("remove", name, "--yes")
            assert result.exit_code == 2
            assert f"no model {name!r}" in result.output
        assert visible(models) == before
