"""The check of llama.cpp's RPC and of the machines that lend memory."""

from __future__ import annotations

import json
import os

from offgrid.cli.doctor.check import Check, State
from offgrid.cli.doctor.machine import REBUILD
from offgrid.config import Settings
from offgrid.engine.build import Build
from offgrid.engine.client.lenders import ask_lender
from offgrid.engine.client.spread import Lent
from offgrid.errors import OffgridError, RpcError
from offgrid.peers.rpc import rpc_servers
from offgrid.rpc.child import Child, program_of
from offgrid.store.disk import mib

_GET = f"CMAKE_ARGS=-DGGML_RPC=on {REBUILD}"
_OTHERS = "divide a model over several machines"


def check_rpc(settings: Settings, build: Build) -> Check:
    """Say whether llama.cpp can compute on other machines, and whether those of the settings lend
    memory."""
    wanted = bool(settings.rpc_servers) or settings.rpc_library is not None
    if not wanted and not build.rpc:
        text = f"not compiled in; it is needed only to {_OTHERS}, and {_GET} compiles it"
        return Check("rpc", "ok", text)
    try:
        how = _try_out(settings)
    except RpcError as ex:
        state: State = "problem" if wanted else "warning"
        return Check("rpc", state, f"llama.cpp cannot {_OTHERS}: {ex}", f"compile it: {_GET}")
    if not settings.rpc_servers:
        return Check("rpc", "ok", f"llama.cpp can {_OTHERS} ({how}); rpc_servers names none")
    return _check_servers(settings, how)


def _try_out(settings: Settings) -> str:
    """Start ggml's server for a moment; return its build.

    Raises:
        RpcError: it cannot be used.
    """
    library = "" if settings.rpc_library is None else str(settings.rpc_library)
    child = Child(program_of(os.getpid(), json.dumps({"rpc_library": library})), lambda line: None)
    child.end()
    return child.started.build


def _check_servers(settings: Settings, how: str) -> Check:
    try:
        lent = [ask_lender(server) for server in rpc_servers(settings)]
    except OffgridError as ex:
        return Check("rpc", "problem", str(ex).rstrip("."), "correct the setting rpc_servers")
    text = f"{how}; " + "; ".join(_told(one) for one in lent)
    if any(one.problem for one in lent):
        fix = "start 'offgrid rpc-worker' there, with the same version of OffGrid"
        return Check("rpc", "warning", text, fix)
    return Check("rpc", "ok", text)


def _told(one: Lent) -> str:
    return one.problem or f"{one.server.name} lends {mib(one.free)}"
