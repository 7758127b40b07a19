"""D11: no data is run as code, no secret is in the repository, and known faults are found."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import offgrid

ROOT = Path(offgrid.__file__).parent
TREE = Path(__file__).parents[1]
MODULES = {"cloudpickle", "dill", "diskcache", "joblib", "marshal", "pickle", "shelve"}
CALLS = {"__import__", "compile", "eval", "exec"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_runs_data_as_code_is_used(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not MODULES & {name.partition(".")[0] for name in names}, path
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in CALLS), path
            shell = [word for word in node.keywords if word.arg == "shell"]
            assert not any(getattr(word.value, "value", True) for word in shell), path


def scan(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TREE / ".ci" / "secrets.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN " + "PRIVATE KEY-----",
        "token = 'ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8'",
        "AKIA" + "QWERTYUIOPASDFGH",
        "key: sk-" + "proj-A1b2C3d4E5f6G7h8I9j0K1l2M3n4",
        "password = '" + "9fK2xLq8Zr4Tn6Vw'",
    ],
)
def test_a_secret_is_found_and_not_printed(tmp_path: Path, secret: str) -> None:
    (tmp_path / "settings.py").write_text(f"# settings\n{secret}\n")
    done = scan(tmp_path)
    assert done.returncode == 1
    assert "settings.py:2" in done.stdout
    assert secret not in done.stdout


def test_ordinary_text_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("api_key='not-needed'\npassword = read()\nsk-...\n" * 3)
    assert scan(tmp_path).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
@pytest.mark.parametrize(
    ("says", "status", "expected"),
    [
        ("No known vulnerabilities found", 0, 0),
        ("Found 2 known vulnerabilities in 1 package: a proxy that timed out", 1, 1),
        ("ERROR: HTTPSConnectionPool: Max retries exceeded", 1, 0),
        ("ERROR: the list is not valid", 2, 2),
    ],
)
def test_an_audit_fails_for_a_known_fault_only(
    tmp_path: Path, says: str, status: int, expected: int
) -> None:
    """Not if the database cannot be reached."""
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {status}\n")
    tool.chmod(0o755)
    command = [str(TREE / ".ci" / "audit"), str(tool), "installed.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stdout) == (expected, True)
