"""Program of a process that lends this machine's memory to one session.

Started by :mod:`offgrid.rpc.child`, never by hand. It serves ggml's RPC on a free loopback port,
which it names on standard output. The parent tests the port; then it connects once more and names
its own port on standard input. This process checks that this connection is the one that came, and
closes its listening port. It ends with standard input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import IO, NoReturn

import msgspec

from offgrid.engine import processors
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.engine.worker.llama.rpc import Rpc, build_text
from offgrid.engine.worker.privileges import obey_permissions
from offgrid.errors import RpcError
from offgrid.rpc.child import LOOPBACK, Started
from offgrid.rpc.own import has_connected, listening_port
from offgrid.startup import forbid_core_dumps, prepare_process

_LISTEN_SECONDS = 30.0
_CONNECT_SECONDS = 2.0
"""ggml accepts a connection as soon as the one before has ended."""
_LOOK = 0.005


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to serve. ``threads`` 0 leaves their number open. ggml reads large tensors from the
    folder ``cache_dir``, if there is one; only if ``fills``, it may write there."""

    rpc_library: str = ""
    cache_dir: str = ""
    threads: int = 0
    fills: bool = False


def main(job: str) -> NoReturn:
    """Entry point of the process.

    Args:
        job: a :class:`Job` as JSON.
    """
    for number in FOR_THE_SERVER:  # only the parent decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    forbid_core_dumps()
    prepare_process()
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what llama.cpp prints must not get between the lines
    try:
        _serve(msgspec.json.decode(job, type=Job), told)
    except RpcError as ex:
        _tell(told, Started(error=str(ex)))
        os._exit(1)
    os._exit(0)


def _serve(job: Job, told: IO[str]) -> None:
    if job.cache_dir and not job.fills:
        obey_permissions()
    rpc = Rpc(job.rpc_library)
    devices = rpc.local_devices()
    threads = job.threads or processors.cores().start
    threading.Thread(
        target=rpc.serve, args=(_cache(job), threads, devices), name="rpc-server", daemon=True
    ).start()
    port, descriptor = _wait_for_port()
    described = tuple(rpc.describe(device) for device in devices)
    _tell(told, Started(port, build_text(), described))
    for line in sys.stdin:
        if not line.strip().isdecimal():
            return
        if not _wait_for_connection(int(line), port):
            print("another", file=told, flush=True)
            return
        _close_port(descriptor)
        print("taken", file=told, flush=True)


def _cache(job: Job) -> str:
    """Return the folder of tensors; an empty text if ggml could write into it although it must not:
    it would leave parts of tensors there, and later take them for whole ones."""
    if job.fills or not job.cache_dir:
        return job.cache_dir
    trial = os.path.join(job.cache_dir, "trial")
    try:
        os.close(os.open(trial, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError:
        return job.cache_dir
    os.unlink(trial)
    return ""


def _wait_for_port() -> tuple[int, int]:
    deadline = time.monotonic() + _LISTEN_SECONDS
    while (found := listening_port()) is None:
        if time.monotonic() > deadline:
            raise RpcError("llama.cpp's RPC server does not listen")
        time.sleep(_LOOK)
    return found


def _wait_for_connection(parent: int, port: int) -> bool:
    """Return whether the only connection is that from the parent's port."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while time.monotonic() < deadline:
        if has_connected((LOOPBACK, port), (LOOPBACK, parent)):
            return True
        time.sleep(_LOOK)
    return False


def _close_port(descriptor: int) -> None:
    """Replace the listening socket, in which ggml's thread will look for the next connection, by a
    file that has none: connections that wait are reset, and no other process can connect."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def _tell(told: IO[str], message: Started) -> None:
    print(msgspec.json.encode(message).decode(), file=told, flush=True)
