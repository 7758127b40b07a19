"""``offgrid config``, ``offgrid completion`` and ``offgrid version``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import TIMEOUT

from offgrid import __version__
from offgrid.cli import main
from offgrid.config import GROUPS, TABLE, load_settings
from offgrid.engine.client.about import ask_build


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="offgrid", env=environ)


def test_config_show_has_values_and_sources(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text('ctx_size = "8k"\nport = 1\n[model_aliases]\n"gpt-4o" = "a"\n')
    environ = {
        "OFFGRID_PORT": "2",
        "OFFGRID_NUM_THREADS": "3",
        "OFFGRID_CORS_ORIGINS": "http://a,http://b",
    }
    shown = run("config", "show", "--config", str(file), **environ)
    assert shown.exit_code == 0
    table, _, last = shown.output.rpartition("\n\n")
    assert last == f"file: {file}\n"
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert [*rows] == ["SETTING", *(setting.name for setting in TABLE)]
    assert rows["ctx_size"] == ["8192", "file:", "ctx_size"]
    assert rows["port"] == ["2", "OFFGRID_PORT"]
    assert rows["threads"] == ["3", "OFFGRID_NUM_THREADS"]
    assert rows["cors_origins"] == ["http://a,http://b", "OFFGRID_CORS_ORIGINS"]
    assert rows["model_aliases"][0] == "gpt-4o=a"
    assert rows["use_mmap"] == ["true", "default"]
    listed = json.loads(run("config", "show", "--json", "--config", str(file), **environ).output)
    assert listed["file"] == str(file)
    settings = listed["settings"]
    assert [*settings] == [setting.name for setting in TABLE]
    assert settings["port"] == {"value": 2, "source": "OFFGRID_PORT"}
    assert settings["ctx_size"] == {"value": 8192, "source": f"{file}: ctx_size"}
    assert settings["model_aliases"]["value"] == {"gpt-4o": "a"}
    assert settings["cors_origins"]["value"] == ["http://a", "http://b"]
    wrong = run("config", "show", OFFGRID_PORT="x")
    assert (wrong.exit_code, wrong.output) == (
        2, "offgrid: OFFGRID_PORT: 'x' is not a whole number\n"
    )  # fmt: skip


def test_config_show_has_the_settings_of_single_models(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    table = 'base = "a"\nkeep_alive = "10m"\npin = true\naliases = ["c", "d"]\nlora = "l.gguf"\n'
    file.write_text(f"[models.b]\n{table}sampling = {{ temperature = 0, p_less = true }}\n")
    expected = {
        "base": "a", "aliases": "c, d", "keep_alive": "10m", "pin": "true",
        "lora": f"{tmp_path / 'l.gguf'} (scale 1)", "sampling": "temperature = 0, p_less = true",
    }  # fmt: skip
    listed = json.loads(run("config", "show", "--json", "--config", str(file)).output)
    assert listed["models"] == {"b": expected}
    table = run("config", "show", "--config", str(file)).output
    for key, text in expected.items():
        [line] = [line for line in table.splitlines() if line.startswith(f'models."b".{key} ')]
        assert line.split(maxsplit=1)[1].rsplit(maxsplit=1) == [text, "file"]


def test_config_path(tmp_path: Path) -> None:
    file = tmp_path / "offgrid" / "offgrid.toml"
    absent = run("config", "path", XDG_CONFIG_HOME=str(tmp_path))
    assert absent.stdout == f"{file}\n"
    assert "does not exist" in absent.stderr
    file.parent.mkdir()
    file.touch()
    assert run("config", "path", XDG_CONFIG_HOME=str(tmp_path)).output == f"{file}\n"
    named = run("config", "path", OFFGRID_CONFIG=str(file), XDG_CONFIG_HOME="/nowhere")
    assert named.output == f"{file}\n"


def test_the_example_file_holds_the_defaults(tmp_path: Path) -> None:
    example = run("config", "example").output
    assert re.findall(r"^# --- (.*) ---$", example, re.MULTILINE) == [*GROUPS]
    tables = re.findall(r"^#     (.*)$", example, re.MULTILINE)
    models = tmp_path / "models.toml"
    models.write_text("\n".join(tables), encoding="utf-8")
    [own] = load_settings(environ={}, config_file=models).models
    assert (own.name, own.keep_alive) == ("my-model", 600)
    file = tmp_path / "offgrid.toml"
    file.write_text(example, encoding="utf-8")
    assert load_settings(environ={}, config_file=file) == load_settings(environ={})
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", example, flags=re.MULTILINE), encoding="utf-8")
    given = load_settings(environ={}, config_file=file)
    for setting in TABLE:
        assert getattr(given, setting.name) == getattr(load_settings(environ={}), setting.name)
    assert f"{file}: models_dir" == given.models_dir_source


@pytest.mark.slow
def test_version_asks_llama_cpp() -> None:
    build = ask_build()
    assert build.threads >= 1
    assert build.mmap
    assert any(device.kind == "cpu" for device in build.devices)
    shown = run("version").output
    assert shown.startswith(f"offgrid    {__version__}\n")
    assert f"llama-cpp-python {build.binding}, ggml {build.ggml}\n" in shown
    listed = json.loads(run("version", "--json").output)
    assert listed["offgrid"] == __version__
    assert listed["llama_cpp"]["features"] == [*build.features]


def test_version_without_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('broken')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    shown = run("version")
    assert shown.exit_code == 1
    assert shown.stdout.startswith(f"offgrid    {__version__}\n")
    assert "llama.cpp cannot be used: ImportError: broken" in shown.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    script = run("completion", shell)
    assert script.exit_code == 0
    assert f"_OFFGRID_COMPLETE={shell}_complete" in script.output


def completed(*words: str, **environ: str) -> list[str]:
    """What the shell would offer for the last word."""
    ended = subprocess.run(
        [sys.executable, "-m", "offgrid"],
        capture_output=True,
        encoding="utf-8",
        cwd="/",
        env={
            **os.environ, **environ, "_OFFGRID_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("offgrid", *words)), "COMP_CWORD": str(len(words)),
        },
        timeout=TIMEOUT,
    )  # fmt: skip
    return [line.partition(",")[2] for line in ended.stdout.splitlines()]


def test_completion_knows_commands_options_and_models(tmp_path: Path, starter_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    assert completed("ver") == ["verify", "version"]
    assert completed("info", "", OFFGRID_MODELS_DIR=str(tmp_path)) == ["first", "second"]
    assert "--ctx-size" in completed("serve", "--c")
    assert completed("serve", "--unknown-fields", "i") == ["ignore"]
