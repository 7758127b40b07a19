"""Attacks on a separate server process: none may stop the server or its other users.

Every attack runs against ``offgrid serve`` as a user starts it. None of these tests measures time:
the order of events shows that the server answers others during an attack. For the figures see
``benchmarks/attacks.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Child, models_flags, program

Serve = Callable[..., Child]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory; the server uses the starter unless a test puts models there."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(models: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start ``offgrid serve`` on a free port with the given flags and variables.

    All servers are ended after the test.
    """
    children: list[Child] = []

    def start(*flags: str, **environ: str) -> Child:
        command = (program("offgrid"), "serve", "--port", "0", *models_flags(models))
        responses = ("--responses-file", str(tmp_path / "responses.sqlite3"))
        children.append(Child(*command, *responses, *flags, cwd=tmp_path, **environ))
        return children[-1]

    yield start
    for child in children:
        child.end()
