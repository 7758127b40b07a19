"""``offgrid rpc-worker``."""

from __future__ import annotations

from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import NOTE, chosen_options, settings_from


@click.command("rpc-worker", cls=Command, epilog=NOTE)
@chosen_options(
    "rpc_host", "rpc_port", "rpc_library", "rpc_cache_mb", "threads", "peers_dir", "peers_name",
    "responses_file", "cache_dir", "log_level", "log_format",
)  # fmt: skip
def rpc_worker(**flags: Any) -> None:
    """Lend this machine's memory to paired machines.

    It runs until Ctrl-C is pressed. A machine that was paired with this one can name it in its
    setting rpc_servers, and then load models that are too large for one machine. Both need the same
    llama.cpp, compiled with RPC: 'offgrid doctor' says whether it is.

    The exit status is 1 if this machine cannot lend memory, and 2 for wrong arguments.
    """
    settings = settings_from(flags)
    from offgrid.cli.lending import lend_memory

    lend_memory(settings)
