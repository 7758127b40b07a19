"""``offgrid list`` and ``offgrid info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from changed_models import with_metadata
from click.testing import CliRunner
from processes import run_offgrid
from support import STARTER
from tiny_vision import make_seeing

from offgrid.cli import main


def test_list(models: Path, starter_path: Path) -> None:
    default = models / ".offgrid-llm" / "models"
    ended = run_offgrid("list", environ={"HOME": str(models)})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "MODEL            PARAMETERS  QUANTISED  CONTEXT     SIZE  KIND\n"
        "offgrid-starter      2.76 M  Q8_0         2,048  2.9 MiB  chat\n\n"
        "This is the starter, which only shows that the server works. For a real model, run "
        f"'offgrid get smollm2-135m', or copy a GGUF file into {default}.\n"
    )
    long = "a-very-long-name-" * 6
    for name in ("b", "base", long):
        (models / f"{name}.gguf").symlink_to(starter_path)
    (models / "base.gguf").unlink()
    with_metadata(starter_path, models / "base.gguf", {"tokenizer.chat_template": ""})
    make_seeing(models, "b-seeing")
    (models / "notes.txt").write_text("no model")
    (models / "empty.gguf").write_bytes(b"")
    (models / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    # The other cases run in this process.
    listed = CliRunner().invoke(main, ["list"], env={"OFFGRID_MODELS_DIR": str(models)})
    lines = listed.output.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["MODEL", long, "b", "b-seeing", "base"]
    assert any(line.startswith("b-seeing ") and line.endswith(" chat, vision") for line in lines)
    assert any(line.startswith("base ") and line.endswith(" base model") for line in lines)
    assert "A base model has no chat template: use /v1/completions" in listed.output
    assert lines[-3] == "Not usable:"
    assert lines[-2].startswith(f"  {models}/cut.gguf: the file is cut off: it has 1,000,000 of ")
    assert lines[-1] == f"  {models}/empty.gguf: the file is empty"
    listed = CliRunner().invoke(main, ["list", "--json", "--models-dir", str(models)])
    as_json: dict[str, Any] = json.loads(listed.output)
    assert as_json["count"] == 4
    assert as_json["models"][1] == {
        "id": "b", "path": str(models / "b.gguf"), "size": starter_path.stat().st_size,
        "parts": [], "problem": None, "kind": "chat", "architecture": "llama",
        "parameters": 2_755_008, "quantization": "Q8_0", "context_length": 2048,
        "projector": None, "draft_model": None, "tools": True, "reasoning": False, "sha256": None,
        "settings": {},
    }  # fmt: skip
    assert as_json["models"][2]["projector"] == str(models / "mmproj-b-seeing.gguf")
    assert [file["path"] for file in as_json["unusable"]] == [
        str(models / "empty.gguf"), str(models / "cut.gguf")
    ]  # fmt: skip
    wrong = run_offgrid("list", "--models-dir", str(models), "--model", "nothing")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--model" in wrong.stderr


def test_info(models: Path, starter_path: Path) -> None:
    file = models / "Own-Model.gguf"
    file.symlink_to(starter_path)
    (models / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])

    def info(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["info", "--models-dir", str(models), *arguments])
        return result.exit_code, result.output

    status, output = info("own")
    assert status == 0
    rows = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert rows["id"] == "Own-Model"
    assert rows["parameters"] == "2.76 M (2,755,008)"
    assert rows["context"] == "2,048 tokens (trained)"
    # A path that is in no models directory.
    status, output = info("--json", str(starter_path))
    assert (status, json.loads(output)["id"]) == (0, STARTER)
    config = models / "offgrid.toml"
    config.write_text(
        '[models.cook]\nbase = "Own-Model"\nctx_size = "1k"\nsampling = { top_k = 5 }\n'
    )
    status, output = info("cook", "--config", str(config))
    rows = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert (rows["base"], rows["ctx_size"], rows["sampling"]) == ("Own-Model", "1024", "top_k = 5")
    assert "of 1,024 tokens" in rows["memory"]
    status, output = info("cut")
    assert status == 1
    assert "offgrid: cut cannot be used: the file is cut off" in output
    assert info("owl") == (
        2, "offgrid: Model not found: owl. The models are Own-Model, cut.\n"
    )  # fmt: skip
    status, output = info(str(models))
    assert (status, "is a folder; offgrid list" in output) == (2, True)
    status, output = info(str(models / ".." / "models"), "--models-dir", "/no/such/folder")
    assert (status, output) == (2, "offgrid: --models-dir: /no/such/folder does not exist\n")
