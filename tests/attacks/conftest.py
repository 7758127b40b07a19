"""Attacks on a separate server process: none may stop the server or its other users.

Every attack runs against ``offgrid serve`` as a user starts it. None of these tests measures time:
the order of events shows that the server answers others during an attack. For the figures see
``benchmarks/attacks.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from keyed import new_key, sending
from processes import Serve, starting

LIMITS = {
    "OFFGRID_REQUESTS_PER_MINUTE": "1000000",
    "OFFGRID_TOKENS_PER_MINUTE": "1000000000",
    "OFFGRID_CONCURRENT_REQUESTS": "4096",
    "OFFGRID_METRICS_KEYS": "true",
}
"""Limits that are in force and that no attack of one client reaches."""


@pytest.fixture(
    scope="module",
    params=["open", pytest.param("keys", marks=pytest.mark.slow)],
)
def access(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """How clients get in: without keys, or with one that every request of this process has.

    With keys, the limits of callers are in force too. Servers that tests start as processes take
    both from the environment. A module uses this with ``pytestmark``, and its fixtures that start
    a server for all of its tests name it.
    """
    if request.param == "open":
        yield "open"
        return
    file = tmp_path_factory.mktemp("keys") / "keys.sqlite3"
    _, secret = new_key(file, "attacker", "admin")
    with pytest.MonkeyPatch.context() as patch, sending(secret):
        patch.setenv("OFFGRID_KEYS_FILE", str(file))
        for name, value in LIMITS.items():
            patch.setenv(name, value)
        yield "keys"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory; the server uses the starter unless a test puts models there."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(models: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start servers with flags and variables; all are ended after the test."""
    with starting(models, tmp_path) as start:
        yield start
