"""Files with names that would move the cursor, rename the window or forge lines of the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from processes import Child, program, serving
from support import TIMEOUT, chat_body, eventually, request

from offgrid.cli import main
from offgrid.store.catalogue import STARTER_PATH

if sys.platform == "win32":
    pytest.skip("such names are not allowed there", allow_module_level=True)
else:
    import pty

NAMES = (
    "title\x1b]0;owned\x07", "line\n  ready    all is well", "back\x08\x08\x08\x08gone",
    "right\u202etfel", "zero\u200bwidth", "c1\x9b31m", "return\rover", "delete\x7f",
)  # fmt: skip
BROKEN = "broken\x1b[2J\nERROR offgrid: forged"
FORGED_PATH = "/v1/models/x%0aERROR%20offgrid:%20forged%1b%5b2J"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of such files; one is not a model, so that the log must name it."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.gguf").symlink_to(STARTER_PATH)
    (folder / f"{BROKEN}.gguf").write_bytes(b"GGUF")
    # Left out of all lists, because JSON cannot represent its name.
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\x1b[2J.gguf"))).symlink_to(STARTER_PATH)
    return folder


def check(text: str) -> None:
    """Fail unless a terminal shows a text unchanged."""
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines), text
    assert all("\x1b" not in line for line in lines)
    assert not any(line.startswith(("ERROR", "  ready    all")) for line in lines)


@pytest.mark.slow
def test_banner_and_log(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--model", BROKEN, "--log-level", "debug") as child:
        child.err.find(r"broken\\x1b\[2J\\nERROR offgrid: forged cannot be loaded: ")
        child.out.find(r"models .*title\\x1b\]0;owned\\x07")
        for path in (FORGED_PATH, f"/tokenizer_info?model={quote(BROKEN)}"):
            assert request(child.url, "GET", path).status >= 400
        ids = [model["id"] for model in request(child.url, "GET", "/v1/models").json["data"]]
        assert ids == sorted(NAMES)
        # The response contains the name unchanged.
        missing = request(child.url, "POST", "/v1/chat/completions", chat_body(model="\x1b\n"))
        assert "not found: \x1b\n. The models are" in missing.json["error"]["message"]
        child.process.terminate()
        child.wait()
        check(child.out.text)
        check(child.err.text)


@pytest.mark.slow
def test_the_log_in_a_terminal(models: Path, tmp_path: Path) -> None:
    """In a terminal, rich formats the lines."""
    ours, theirs = pty.openpty()
    flags = ("--port", "0", "--models-dir", str(models), "--model", BROKEN)
    child = Child(program("offgrid"), "serve", *flags, cwd=tmp_path, stderr=theirs, COLUMNS="500")
    os.close(theirs)
    written = b""

    def read() -> bool:
        nonlocal written
        written += os.read(ours, 4096)
        return b"forged cannot be loaded: " in written

    try:
        eventually(read, "the broken model is named")
    finally:
        child.end()
        os.close(ours)
    # Colours come from OffGrid itself; the control characters of the name are escaped.
    assert b"\x1b[2J" not in written
    assert b"broken\\x1b" in written
    assert b"\nERROR" not in written


def run(*arguments: str) -> str:
    """All output of a command."""
    return CliRunner().invoke(main, arguments).output


def test_the_list(models: Path) -> None:
    """In a separate process; the other commands run in this one."""
    command = [program("offgrid"), "list", "--models-dir", str(models)]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    printed = ended.stdout + ended.stderr
    check(printed)
    # A head, the models, an empty line, a head, and two files that cannot be used.
    assert printed.count("\n") == 1 + len(NAMES) + 2 + 2
    listed = json.loads(run("list", "--json", "--models-dir", str(models)))
    assert [model["id"] for model in listed["models"]] == sorted(NAMES)
    assert {model["path"] for model in listed["models"]} == {
        str(models / f"{name}.gguf") for name in NAMES
    }
    unusable = {file["path"] for file in listed["unusable"]}
    assert unusable == {str(models / f"{BROKEN}.gguf"), f"{models}/\ufffd\x1b[2J.gguf"}


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[2J"))
    folder.mkdir()
    (folder / "a.gguf").symlink_to(STARTER_PATH)
    check(run("list", "--models-dir", str(folder)))
    (listed,) = json.loads(run("list", "--json", "--models-dir", str(folder)))["models"]
    assert listed["path"] == f"{tmp_path}/\ufffd\x1b[2J/a.gguf"


def test_errors_of_the_command(tmp_path: Path) -> None:
    for arguments in (("--models-dir", f"{tmp_path}/\x1b[2J", "--model", "\x1b[2J\nERROR"),
                      ("--config", f"{tmp_path}/\x1b[2J\nERROR")):  # fmt: skip
        printed = run("list", *arguments)
        check(printed)
        assert printed.count("\n") == 1
