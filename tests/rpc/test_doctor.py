"""What ``offgrid doctor`` says of machines that lend memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import run_offgrid
from rpc_library import rpc_library
from rpc_workers import MakeWorker, rpc_workers


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorker]:
    with rpc_workers(tmp_path, tmp_path / "here" / "peers") as make:
        yield make


def check(folder: Path, *flags: str) -> dict[str, Any]:
    done = run_offgrid(
        "doctor", "--json", "--no-config", "--peers-dir", str(folder / "here" / "peers"), *flags
    )
    return next(one for one in json.loads(done.stdout)["checks"] if one["subject"] == "rpc")


def test_it_tells_how_to_get_rpc(tmp_path: Path) -> None:
    rpc_library()
    found = check(tmp_path)
    assert found["state"] == "ok"
    assert "CMAKE_ARGS=-DGGML_RPC=on pip install" in found["text"]
    found = check(tmp_path, "--rpc-servers", "127.0.0.1:50052")
    assert found["state"] == "problem"
    assert "compile it" in found["fix"]


@pytest.mark.slow
def test_it_tests_the_library(tmp_path: Path) -> None:
    found = check(tmp_path, "--rpc-library", rpc_library())
    assert found["state"] == "ok"
    assert "RPC 7." in found["text"]
    wrong = tmp_path / "libggml-rpc.so"
    wrong.write_bytes(b"no library")
    found = check(tmp_path, "--rpc-library", str(wrong))
    assert found["state"] == "problem"
    assert str(wrong) in found["text"]


@pytest.mark.slow
def test_it_asks_the_machines(tmp_path: Path, make: MakeWorker) -> None:
    far = make("far")
    flags = ("--rpc-library", rpc_library(), "--rpc-servers", far.server)
    found = check(tmp_path, *flags)
    assert found["state"] == "ok"
    assert "far lends" in found["text"]
    far.kill()
    found = check(tmp_path, *flags)
    assert found["state"] == "warning"
    assert "the RPC worker far cannot be reached" in found["text"]
    found = check(tmp_path, *flags[:2], "--rpc-servers", "nobody")
    assert found["state"] == "problem"
    assert "'nobody' is not a peer" in found["text"]
