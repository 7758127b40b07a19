"""A stick made by ``offgrid export --with-installer``, used on a machine without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import watched_network
import wheelhouse
from processes import heed_signals
from support import TIMEOUT

import offgrid

NAMESPACE = ["unshare", "--net", "--mount", "--propagation", "private"]
if hasattr(os, "getuid") and os.getuid() != 0:
    NAMESPACE[1:1] = ["--user", "--map-root-user"]


def refusal(folder: Path) -> str:
    """Why this machine has no namespace with a pair of devices and a mount; "" if it has one."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "needs the programs unshare and ip"
    make = 'mount --bind "$0" "$0" && ip link add out type veth peer name nowhere'
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", make, str(folder)], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else f"no network namespace: {done.stderr.strip()}"


@pytest.mark.slow
def test_nothing_leaves_the_machine_from_installation_to_chat(tmp_path: Path) -> None:
    """Only the tests of the scripts, in ``test_installer.py``, are in the default run."""
    if reason := refusal(tmp_path):
        pytest.skip(reason)
    house, models = tmp_path / "house", tmp_path / "models"
    stick, home = tmp_path / "my stick", tmp_path / "home of one"
    for folder in (house, models, stick, home):
        folder.mkdir()
    wheelhouse.pack(["offgrid-llm", "pip"], house)
    shutil.copy(Path(offgrid.__file__).parent / "models/offgrid-starter.gguf", models / "own.gguf")
    wheel = next(house.glob("offgrid_llm-*.whl"))
    export = subprocess.run(
        [sys.executable, "-m", "offgrid", "export", str(stick), "--installer-from", str(wheel),
         "--models-dir", str(models)],
        capture_output=True, text=True, cwd="/", preexec_fn=heed_signals, timeout=TIMEOUT,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house),
             "PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip
    assert export.returncode == 0, export.stdout + export.stderr
    done = subprocess.run(
        [*NAMESPACE, sys.executable, watched_network.__file__, str(stick), str(home)],
        capture_output=True, text=True, cwd="/", preexec_fn=heed_signals, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["out"] == []
    assert report["other"] == []
    assert report["seen"] > 0
    assert report["control"] == 1
    assert report["answer"]["model"] == "own"
    assert report["answer"]["choices"][0]["message"]["content"]
    page, sizes = report["page"]
    assert page == (Path(offgrid.__file__).parent / "web/index.html").read_text()
    assert {"main.js", "early.js", "style/base.css"} <= sizes.keys()
    assert all(sizes.values())
    assert "imported  own.gguf" in report["output"]
    assert "identical own.gguf" in report["output"]
