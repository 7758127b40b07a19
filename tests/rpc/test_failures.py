"""What a machine that lends does when its system has no thread or no file for it."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import run_offgrid
from rpc_library import rpc_library
from rpc_workers import lender_here
from support import TIMEOUT

from offgrid.errors import RpcError
from offgrid.rpc import lender as module
from offgrid.rpc.connection import status

BROKEN = """
from offgrid import cli
from offgrid.rpc.lender import Lender

def run(self):
    raise MemoryError

Lender.run = run
cli.main(prog_name="offgrid")
"""


def test_a_connection_for_which_there_is_no_thread_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = list[int]()

    class Thread(threading.Thread):
        def start(self) -> None:
            if not failed:
                failed.append(1)
                raise RuntimeError("can't start new thread")
            super().start()

    with lender_here(tmp_path) as (_, far):
        monkeypatch.setattr(module, "threading", SimpleNamespace(Thread=Thread))
        with pytest.raises(RpcError, match="the RPC worker far cannot be"):
            status(far, TIMEOUT)
        assert status(far, TIMEOUT).build


def test_it_accepts_connections_again_when_there_are_files_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    accepts = list[int]()

    class Listener(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            accepts.append(1)
            if len(accepts) == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    monkeypatch.setattr(socket, "socket", Listener)
    with lender_here(tmp_path) as (_, far):
        assert status(far, TIMEOUT).build
    assert "cannot accept a connection" in caplog.text


@pytest.mark.slow
def test_it_ends_with_an_error_if_it_can_lend_no_more(tmp_path: Path) -> None:
    """A service manager starts it again then."""
    flags = (
        "rpc-worker", "--no-config", "--peers-dir", str(tmp_path / "peers"), "--responses-file",
        str(tmp_path / "responses.sqlite3"), "--rpc-host", "127.0.0.1", "--rpc-port", "0",
        "--rpc-library", rpc_library(), "--threads", "1",
    )  # fmt: skip
    program = tmp_path / "broken.py"  # in a folder without the package's sources
    program.write_text(BROKEN)
    done = run_offgrid(*flags, command=(sys.executable, str(program)))
    assert done.returncode == 1
    assert "this machine lends no memory any more" in done.stderr
    assert "MemoryError" in done.stderr
    assert not (tmp_path / "peers" / "rpc.json").exists()
