"""Help, completion and version import no more than they show, so that they come at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from offgrid.cli import COMMANDS, main
from offgrid.cli.help import Later

HEAVY = {
    "falcon", "waitress", "numpy", "llama_cpp", "jinja2", "httpx", "prompt_toolkit", "rich",
    "offgrid.server", "offgrid.app", "offgrid.engine.protocol",
}  # fmt: skip
PROGRAM = """
import contextlib, io, json, os, sys
from offgrid.cli import main
for arguments in json.loads(sys.argv[1]):
    words = ["offgrid", *arguments[1:]]
    if arguments[0] == "complete":
        os.environ |= {
            "_OFFGRID_COMPLETE": "zsh_complete", "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        arguments = []
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main(arguments, prog_name="offgrid")
    os.environ.pop("_OFFGRID_COMPLETE", None)
    shown.flush()
    assert shown.buffer.getvalue().strip(), words
print(json.dumps([*sys.modules]))
"""


def imported(folder: Path, *commands: list[str]) -> set[str]:
    """What a process has imported that has run these commands."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        env={**os.environ, "OFFGRID_MODELS_DIR": str(folder), "HOME": str(folder)},
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_help_and_completion_import_no_server(tmp_path: Path) -> None:
    commands = [[name, "--help"] for name in main.commands]
    words = [["complete", name, "--"] for name in main.commands if name != "config"]
    models = [["complete", name, "of"] for name in ("run", "info", "export")]
    modules = imported(
        tmp_path, ["--help"], ["complete", ""], ["complete", "s"], *commands, *words, *models
    )
    assert "offgrid.store.catalogue" in modules  # the ids were looked up
    assert modules & HEAVY == set()


def test_version_imports_no_server(tmp_path: Path) -> None:
    """Another process asks llama.cpp."""
    assert imported(tmp_path, ["version"], ["--version"]) & HEAVY == set()


def test_help_and_completion_of_all_commands_import_none(tmp_path: Path) -> None:
    modules = imported(tmp_path, ["--help"], ["complete", ""])
    assert not {f"offgrid.cli.{name}" for name in ("serve", "run", "models", "doctor")} & modules


def test_the_short_help_is_that_of_the_command() -> None:
    assert {name for name, _, _ in COMMANDS} == set(main.commands)
    for name, place, short in COMMANDS:
        # Other tests may have imported it already, so the entry of main is not looked at.
        command = Later(name, f"offgrid.cli.{place}", short).load()
        assert short == command.get_short_help_str(200), name
