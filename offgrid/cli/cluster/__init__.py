"""``offgrid cluster``: several machines that serve the same models."""

from __future__ import annotations

import click

from offgrid.cli.cluster import command
from offgrid.cli.help import Group


@click.group(cls=Group, short_help="Put a load balancer in front of several machines.")
def cluster() -> None:
    """Put a load balancer in front of several machines that serve the same models.

    docs/CLUSTER.md explains when that is better than peers, and when it is not.
    """


cluster.add_command(command.haproxy)
