"""docs/architecture.md lists the threads of machines that borrow and lend."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from processes import serving
from rpc_library import rpc_library
from rpc_workers import RpcWorker
from support import chat_body, request

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
BORROWER, BORROWING = "server that borrows", "worker that borrows"
LENDER, LENDING = "RPC worker", "process that computes"


def listed(process: str) -> set[str]:
    rows = re.findall(rf"^\| {process} \| ([^|]+) \|", PAGE, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which each process writes down which threads it starts."""
    folder = tmp_path / "threads"
    folder.mkdir()
    path = [str(TESTS / "recorded"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("RECORDED_THREADS", str(folder))
    return folder


@pytest.mark.slow
def test_all_threads_are_in_the_table(tmp_path: Path, threads: Path) -> None:
    here = tmp_path / "here" / "peers"
    far = RpcWorker(tmp_path, "far", here, rpc_library())
    try:
        flags = (
            "--no-config", "--peers-dir", str(here), "--rpc-servers", far.server,
            "--rpc-layers", "all", "--rpc-library", far.rpc_library, "--threads", "1",
        )  # fmt: skip
        with serving(tmp_path, *flags) as server:
            url = server.wait_ready()
            body = chat_body(max_tokens=2)
            assert request(url, "POST", "/v1/chat/completions", body).status == 200
            pids = {
                BORROWER: server.process.pid,
                BORROWING: server.worker().pid,
                LENDER: far.child.process.pid,
                LENDING: far.lending().pid,
            }
            for process, pid in pids.items():
                started = (threads / str(pid)).read_text(encoding="utf-8").split()
                own = {name for name in started if name.startswith("rpc-")}
                assert own == listed(process), process
    finally:
        far.kill()
