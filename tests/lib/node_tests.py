"""Runs test files of Node, and says which of their tests failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import TIMEOUT

OLDEST = (20, 19)
"""The first version of Node that recognises ES modules by their content."""


def find_node() -> str:
    """The path of Node. Skips the test if it is missing or too old."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    found = tuple(map(int, re.findall(r"\d+", told)[:2]))
    if found < OLDEST:
        pytest.skip(f"Node.js {told.strip()} is too old; 20.19 or newer is needed")
    return node


def run_node_tests(file: Path, timeout: float = 3 * TIMEOUT, **environ: str) -> None:
    """Run one test file; fail with the names of its failed tests, then its output."""
    done = subprocess.run(
        [find_node(), "--test", "--test-reporter=tap", file.name],
        cwd=file.parent,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    failed = re.findall(r"^\s*not ok \d+ - (.*)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, f"failed: {failed}\n{done.stdout}{done.stderr}"
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "no test ran"
