"""``offgrid import`` as a command: its lines, events and exit statuses."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sticks import content, manifest, put, visible

from offgrid.cli import main
from offgrid.store.disk import locked

MODEL = content(1, 100_000)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    put(tmp_path / "stick/a.gguf", MODEL)
    return tmp_path / "stick"


def run(models: Path, *arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(main, ["import", *words, "--models-dir", str(models)])


@pytest.mark.parametrize("command", ["import", "export", "verify", "serve"])
def test_an_empty_path_is_not_the_current_folder(command: str) -> None:
    result = CliRunner().invoke(main, [command, ""])
    assert result.exit_code == 2
    assert "the path is empty" in result.output


def test_lines_and_statuses(stick: Path, models: Path) -> None:
    result = run(models, stick)
    assert result.exit_code == 0
    assert result.output == (
        f"imported  a.gguf (0.1 MiB)\n1 imported; the models directory is {models}\n"
    )
    assert run(models, stick).output.startswith("identical a.gguf: is there already\n")
    put(stick / "a.gguf", content(2, 100_000))
    different = run(models, stick)
    assert different.exit_code == 1
    assert "--replace" in different.output
    assert visible(models) == {"a.gguf": MODEL}
    assert run(models, stick, "--replace").exit_code == 0


def test_paths_that_do_not_exist(stick: Path, models: Path) -> None:
    """If there is nothing to do at all, the arguments are wrong."""
    absent = stick / "absent"
    result = run(models, absent, stick / "a.gguf/x.gguf")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"offgrid: {absent}, {stick}/a.gguf/x.gguf: does not exist. Is the stick mounted there?\n"
    )
    (event,) = map(json.loads, run(models, absent, "--json").stdout.splitlines())
    assert (event["status"], event["code"]) == ("failed", "not_found")
    assert not models.exists()
    partly = run(models, absent, stick)
    assert partly.exit_code == 1
    assert "1 failed, 1 imported" in partly.output


def test_a_file_that_is_skipped_for_good_reason_is_no_failure(stick: Path, models: Path) -> None:
    put(stick / "._a.gguf", b"resource fork")
    result = run(models, stick)
    assert result.exit_code == 0
    assert "skipped   " in result.output


def test_events(stick: Path, models: Path) -> None:
    put(stick / "b.gguf", b"no model")
    manifest(stick)
    result = run(models, stick, "--json")
    assert result.exit_code == 1
    events: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in events} == {"progress", "file", "end"}
    phases = [event["phase"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(phases)) == ["copying", "verifying"]
    files = {Path(e["name"]).name: e for e in events if e["event"] == "file"}
    assert files["a.gguf"]["status"] == "imported"
    assert files["a.gguf"]["size"] == len(MODEL)
    assert files["b.gguf"]["status"] == "failed"
    assert events[-1] == {"event": "end", "status": "failed", "failed": 1, "imported": 1}


def test_names_that_would_write_to_the_terminal_are_escaped(tmp_path: Path, models: Path) -> None:
    name = os.fsdecode(b"\x1b[2Jx\xff.gguf")
    put(tmp_path / "odd" / name, MODEL)
    result = run(models, tmp_path / "odd")
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\\x1b[2Jx\\udcff.gguf" in result.output
    end = run(models, tmp_path / "odd", "--json").stdout.splitlines()[0]
    assert json.loads(end)["name"].endswith("\x1b[2Jx\ufffd.gguf")


def test_an_import_beside_another_one(stick: Path, models: Path) -> None:
    with locked(models):
        result = run(models, stick)
        assert result.exit_code == 1
        assert "another import or download is running" in result.output
        event = json.loads(run(models, stick, "--json").stdout)
        assert (event["event"], event["status"], event["code"]) == ("end", "failed", "busy")


def test_a_folder_that_cannot_be_made(stick: Path, tmp_path: Path) -> None:
    put(tmp_path / "file", b"")
    result = run(tmp_path / "file/models", stick)
    assert result.exit_code == 1
    assert "cannot be written" in result.output


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_ctrl_c(
    stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module("offgrid.cli.import_")
    monkeypatch.setattr(module, "import_models", interrupted)
    result = run(models, stick, *flags)
    assert result.exit_code == 130
    assert ("interrupted" if flags else "the same command continues") in result.output


def test_wrong_settings(stick: Path, models: Path) -> None:
    assert run(models).exit_code == 2
    result = run(models, stick, "--config", models / "none.toml")
    assert result.exit_code == 2
    assert "none.toml" in result.output
