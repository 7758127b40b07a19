"""``offgrid peers``: the machines that this one is paired with. Its commands ask the running
server."""

from __future__ import annotations

import click

from offgrid.cli.help import Group
from offgrid.cli.peers.listing import list_
from offgrid.cli.peers.pairing import forget, pair


@click.group(cls=Group, short_help="Pair with other machines, list and forget them.")
def peers() -> None:
    """Pair this machine with other OffGrid machines on the network, list and forget them.

    Peers use each other's models, and copy them. The server must run with --peers on both machines.
    """


for _command in (list_, pair, forget):
    peers.add_command(_command)
