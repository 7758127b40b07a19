"""``offgrid forget``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from offgrid.cli.options import chosen_options, fail, settings_from
from offgrid.engine.saved_prefixes import delete_saved
from offgrid.errors import OffgridError
from offgrid.store.disk import mib
from offgrid.store.responses import delete_everything
from offgrid.terminal import shown


@click.command()
@click.option("--yes", is_flag=True, help="Delete without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted as JSON.")
@chosen_options("responses_file", "cache_dir")
def forget(yes: bool, as_json: bool, **flags: Any) -> None:
    """Delete all stored responses, conversations and saved prefixes.

    /v1/responses and /v1/conversations store them in one file. Afterwards, neither that file nor
    the files next to it contain their texts. Prefixes of prompts are in the cache directory. A
    server may run meanwhile: it goes on, with nothing stored.

    The exit status is 0 if nothing is stored afterwards, 1 if a file cannot be used, and 2 for
    wrong arguments.
    """
    settings = settings_from(flags)
    path, folder = settings.responses_file, settings.cache_dir
    if not yes:
        if not sys.stdin.isatty():
            fail("forget asks before it deletes; add --yes", 2)
        click.echo(f"responses and conversations: {path}\nsaved prefixes: {folder}")
        click.confirm("Delete all of them?", abort=True)
    try:
        responses, conversations, size = delete_everything(path)
    except (OffgridError, OSError) as ex:
        fail(f"{path}: {ex}", 1)
    try:
        prefixes, freed = delete_saved(folder)
    except OSError as ex:
        fail(f"{folder}: {ex}", 1)
    if as_json:
        deleted = {"responses": responses, "conversations": conversations, "bytes_freed": size}
        saved = {"folder": str(folder), "prefixes": prefixes, "prefix_bytes_freed": freed}
        click.echo(json.dumps({"file": str(path), **deleted, **saved}))
    else:
        click.echo(
            f"deleted {responses} responses and {conversations} conversations from {shown(path)}; "
            f"{mib(size)} became free"
        )
        if prefixes:
            click.echo(
                f"deleted {prefixes} prefixes from {shown(folder)}; {mib(freed)} became free"
            )
