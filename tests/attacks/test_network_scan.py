"""What another machine in the network can do without a key: ask ``/health``, read the page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import other_network
import pytest
from processes import heed_signals, program
from support import TIMEOUT

pytestmark = pytest.mark.slow
NAMESPACE = ["unshare", "--net"]
if hasattr(os, "getuid") and os.getuid() != 0:
    NAMESPACE[1:1] = ["--user", "--map-root-user"]
PUBLIC = ("GET /", "GET /health", "GET /ready", "GET /favicon.ico")
"""Endpoints that tell nothing about what is served; so do the files of the page."""


def is_public(endpoint: str) -> bool:
    return endpoint in PUBLIC or endpoint.startswith("GET /ui")


def refusal() -> str:
    """Why this machine has no network namespaces with a cable between them; "" if it has."""
    if any(shutil.which(name) is None for name in ("unshare", "nsenter", "ip")):
        return "needs the programs unshare, nsenter and ip"
    make = "ip link add here type veth peer name there && unshare --net true"
    done = subprocess.run([*NAMESPACE, "sh", "-c", make], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no network namespace: {done.stderr.strip()}"


def test_a_scan_from_another_machine(tmp_path: Path) -> None:
    """E5. The default run asks in one process: ``test_forwarding.py`` and ``test_listening.py``."""
    if reason := refusal():
        pytest.skip(reason)
    done = subprocess.run(
        [*NAMESPACE, sys.executable, other_network.__file__, str(tmp_path), program("offgrid")],
        capture_output=True, text=True, cwd=tmp_path, preexec_fn=heed_signals, timeout=5 * TIMEOUT,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    default = told["default"]
    assert default.pop("open") == []
    assert len(default) > 20
    assert not [status for status in default.values() if isinstance(status, int)]

    status, message = told["refused"]
    assert status == 2
    assert "offgrid keys create" in message

    stranger = told["stranger"]
    assert stranger.pop("open") == [told["port"]]
    assert all(is_public(path) for path, status in stranger.items() if status == 200)
    assert {status for path, status in stranger.items() if not is_public(path)} == {401}
    wrong = {path: status for path, status in told["wrong"].items() if path != "open"}
    assert {status for path, status in wrong.items() if not is_public(path)} <= {401}
    assert told["holder"]["GET /v1/models"] == 200
