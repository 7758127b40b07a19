"""``offgrid forget``."""

from __future__ import annotations

import json
import sys

import click

from offgrid.cli.options import fail, settings_from
from offgrid.errors import OffgridError
from offgrid.store.disk import mib
from offgrid.store.responses import delete_everything
from offgrid.terminal import shown


@click.command()
@click.option("--yes", is_flag=True, help="Delete without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted as JSON.")
@click.option("--responses-file", metavar="PATH", help="File of stored responses.")
@click.option("--config", metavar="FILE", help="TOML file with settings.")
def forget(yes: bool, as_json: bool, responses_file: str | None, config: str | None) -> None:
    """Delete all stored responses and conversations.

    /v1/responses and /v1/conversations store them in one file. Afterwards, neither that file nor
    the files next to it contain their texts. A server may run meanwhile: it goes on, with nothing
    stored.

    The exit status is 0 if nothing is stored afterwards, 1 if the file cannot be used, and 2 for
    wrong arguments.
    """
    path = settings_from({"responses_file": responses_file, "config": config}).responses_file
    if not yes:
        if not sys.stdin.isatty():
            fail("forget asks before it deletes; add --yes", 2)
        click.confirm(f"Delete all stored responses and conversations in {path}?", abort=True)
    try:
        responses, conversations, size = delete_everything(path)
    except (OffgridError, OSError) as ex:
        fail(f"{path}: {ex}", 1)
    if as_json:
        deleted = {"responses": responses, "conversations": conversations, "bytes_freed": size}
        click.echo(json.dumps({"file": str(path), **deleted}))
    else:
        click.echo(
            f"deleted {responses} responses and {conversations} conversations from {shown(path)}; "
            f"{mib(size)} became free"
        )
