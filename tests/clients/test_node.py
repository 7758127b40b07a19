"""Clients for Node, each with a test file in ``node/``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import STARTER

NODE = Path(__file__).parent / "node"


@pytest.mark.parametrize("file", sorted(path.name for path in NODE.glob("*.test.mjs")))
def test_node(base_url: str, file: str) -> None:
    node = shutil.which("node")
    assert node is not None, "Node.js 18 or newer is not installed"
    assert (NODE / "node_modules").is_dir(), f"first: npm ci --prefix {NODE}"
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", file],
        cwd=NODE,
        env={**os.environ, "OFFGRID_URL": base_url, "OFFGRID_MODEL": STARTER},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "no test ran"
