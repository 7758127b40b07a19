"""Attacks on a server process of its own: what stops it, and what stops its users, must not.

Every attack runs against ``offgrid serve`` as a person starts it. None of these tests measures
time: a server that answers others while an attack is under way is shown by the order of events.
``benchmarks/attacks.py`` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Child, program

Serve = Callable[..., Child]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory; the starter is served unless a test puts models there."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(models: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start ``offgrid serve`` on a free port with more flags and variables; all are ended after
    the test."""
    children: list[Child] = []

    def start(*flags: str, **environ: str) -> Child:
        command = (program("offgrid"), "serve", "--port", "0", "--models-dir", str(models))
        responses = ("--responses-file", str(tmp_path / "responses.sqlite3"))
        children.append(Child(*command, *responses, *flags, cwd=tmp_path, **environ))
        return children[-1]

    yield start
    for child in children:
        child.end()
