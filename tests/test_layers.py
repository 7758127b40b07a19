"""Imports point down the levels of the layout, and llama.cpp has one importer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import offgrid

ROOT = Path(offgrid.__file__).parent
LEVELS = {
    "errors": 0, "config": 0, "startup": 0, "terminal": 0, "sampling": 1, "engine": 2, "chat": 2,
    "store": 2, "peers": 3, "api": 4, "app": 5, "server": 5, "cli": 6, "__main__": 7,
}  # fmt: skip


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            # ``from offgrid import cli`` imports a package, too.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_imports_point_down() -> None:
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(files) > 30
    for path in files:
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        for name in imports(path):
            package, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if package == "offgrid" and other not in ("", "__version__"):
                assert LEVELS[other] <= LEVELS[own], f"{path} imports {name}"


def test_llama_cpp_has_one_importer() -> None:
    importers = {
        path.relative_to(ROOT).parent.as_posix()
        for path in ROOT.rglob("*.py")
        if any(name.split(".")[0] == "llama_cpp" for name in imports(path))
    }
    assert importers == {"engine/llama"}


def test_the_server_process_does_not_load_llama_cpp(tmp_path: Path) -> None:
    program = (
        "import sys, offgrid.server, offgrid.app, offgrid.cli;"
        "print([name for name in sys.modules if name.startswith('llama_cpp')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,  # in the project's folder it would find the source tree
    )
    assert result.stdout.strip() == "[]"


def test_no_function_imports_a_module_of_the_package() -> None:
    """It would be loaded by the first thread that gets there, and its structs would be unprepared
    (:mod:`offgrid.startup`)."""
    for path in ROOT.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                late = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                assert not [node for node in late if (node.module or "").startswith("offgrid")], (
                    path
                )
