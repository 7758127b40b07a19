"""Which module may import which: levels, processes, no cycles, and one importer of llama.cpp."""

from __future__ import annotations

import ast
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import offgrid

ROOT = Path(offgrid.__file__).parent
LEVELS = {
    "addresses": 0, "caller": 0, "errors": 0, "record": 0, "config": 0, "startup": 0,
    "terminal": 0, "pinned": 0, "tls": 0,
    "sampling": 1, "grammar": 1, "filters": 1, "service": 1, "rpc": 1,
    "listening": 2,
    "engine": 2, "chat": 2, "store": 2,
    "peers": 3, "stats": 3,
    "api": 4,
    "app": 5, "collaborators": 5, "server": 5, "inprocess": 5,
    "cli": 6,
    "__main__": 7,
}  # fmt: skip
BOTH_PROCESSES = {
    "attention", "build", "context_length", "folders", "kv_types", "memory", "processors",
    "protocol", "saved_prefixes", "signals",
}  # fmt: skip
"""Modules of the engine that both the server and the worker import."""


COMMANDS = ("bench", "complete", "doctor", "models", "options", "rpc_worker", "run", "serve")
"""Modules of commands that import what does the work when the command runs."""


def module_of(path: Path) -> str:
    """Return the module name of a file of the package."""
    parts = ("offgrid", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Return the imports of a module; those of this package by module name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return frozenset(names)


def below(names: Iterable[str], package: str) -> set[str]:
    """Return the names that are the package or inside it."""
    return {name for name in names if f"{name}.".startswith(f"{package}.")}


def importers(library: str) -> set[str]:
    """Return the modules that import a library."""
    return {module for module in MODULES if below(imports(module), library)}


def test_imports_point_down() -> None:
    assert len(MODULES) > 100
    for module in set(MODULES) - {"offgrid"}:
        own = module.split(".")[1]
        for name in below(imports(module), "offgrid") - {"offgrid"}:
            other = name.split(".")[1]
            assert LEVELS[other] <= LEVELS[own], f"{module} imports {name}"


def test_there_are_no_import_cycles() -> None:
    """This includes indirect cycles and imports that only type checkers see."""
    left = {module: below(imports(module), "offgrid") - {module} for module in MODULES}
    while left:
        free = {module for module, names in left.items() if not names & set(left)}
        assert free, f"a circle of imports among {sorted(left)}"
        for module in free:
            del left[module]


def test_the_server_and_the_worker_import_nothing_of_each_other() -> None:
    worker = "offgrid.engine.worker"
    assert below(MODULES, worker)
    for module in set(MODULES) - below(MODULES, worker):
        assert not below(imports(module), worker), module
    common = {"offgrid", "offgrid.errors", "offgrid.startup"}
    for name in BOTH_PROCESSES:
        common |= below(MODULES, f"offgrid.engine.{name}")
    for module in below(MODULES, worker):
        for name in below(imports(module), "offgrid"):
            assert (
                name in common
                or below([name], worker)
                or below([name], "offgrid.filters")
                or below([name], "offgrid.grammar")
                or below([name], "offgrid.rpc")
                or below([name], "offgrid.sampling")
            ), f"{module} imports {name}"


def test_the_grammar_package_imports_only_errors() -> None:
    for module in below(MODULES, "offgrid.grammar"):
        for name in below(imports(module), "offgrid"):
            assert name == "offgrid.errors" or below([name], "offgrid.grammar"), module


def test_libraries_have_few_importers() -> None:
    """Each library is imported only in the process that needs it and in the expected package."""
    worker = below(MODULES, "offgrid.engine.worker")
    llama = below(MODULES, "offgrid.engine.worker.llama")
    assert importers("llama_cpp") <= llama
    assert importers("numpy") <= worker | below(MODULES, "offgrid.sampling")
    assert importers("llguidance") <= worker | below(MODULES, "offgrid.grammar")
    for module in below(MODULES, "offgrid.grammar"):  # it converts text to text, without matching
        assert "LLMatcher" not in MODULES[module].read_text(encoding="utf-8"), module
    assert importers("waitress") <= below(MODULES, "offgrid.api.http.waitress")
    assert importers("prometheus_client") == {"offgrid.api.stats.metrics"}
    assert importers("falcon") <= below(MODULES, "offgrid.api") | {"offgrid.app"}


def test_the_server_process_does_not_load_llama_cpp(tmp_path: Path) -> None:
    assert importlib.util.find_spec("llama_cpp") is not None
    program = (
        "import sys, offgrid.server, offgrid.app, offgrid.cli;"
        "print([name for name in sys.modules if name.split('.')[0] in ('llama_cpp', 'numpy')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,  # in the project's folder Python would import the source tree
    )
    assert result.stdout.strip() == "[]"


def test_no_function_imports_a_module_of_the_package() -> None:
    """The first thread to reach the import would load a module with unprepared structs.

    See :mod:`offgrid.startup`. Commands import what they need when they run, on the main thread
    before any other is started.
    """
    commands = {f"offgrid.cli.{name}" for name in COMMANDS}
    for module, path in MODULES.items():
        if module in commands:
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                late = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                assert not [n for n in late if (n.module or "").startswith("offgrid")], module
