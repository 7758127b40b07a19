"""Programs that tests give to Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent


def programs(path: Path) -> Iterator[ast.Call]:
    """The calls in a file that run ``python -c``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            not isinstance(node, ast.Call)
            or not node.args
            or not isinstance(node.args[0], ast.List)
        ):
            continue
        command = ast.unparse(node.args[0])
        if "sys.executable, '-c'" in command and ast.unparse(node.func).startswith("subprocess."):
            yield node


def test_programs_import_what_is_installed() -> None:
    """``python -c`` looks for modules in the folder where it starts. In the project's folder these
    are the sources, which have no compiled modules."""
    found = 0
    for path in sorted(ROOT.rglob("*.py")):
        for call in programs(path):
            found += 1
            given = {keyword.arg for keyword in call.keywords}
            assert "cwd" in given, f"{path.relative_to(ROOT)}:{call.lineno} needs cwd"
    assert found > 20
