"""``offgrid forget``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from offgrid.cli.options import chosen_options, fail, settings_from
from offgrid.engine.saved_prefixes import delete_saved
from offgrid.errors import OffgridError
from offgrid.store.disk import mib
from offgrid.store.history.file import delete_history
from offgrid.store.responses import delete_everything
from offgrid.store.signing_key import delete_signing_key
from offgrid.terminal import shown


@click.command()
@click.option("--yes", is_flag=True, help="Delete without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted as JSON.")
@chosen_options("responses_file", "history_file", "cache_dir")
def forget(yes: bool, as_json: bool, **flags: Any) -> None:
    """Delete stored responses, conversations, history and prefixes.

    /v1/responses and /v1/conversations store them in one file, the web page in another. Afterwards,
    neither these files nor the files next to them contain their texts. Prefixes of prompts are in
    the cache directory. The key that signs reasoning is deleted too. A server may run meanwhile: it
    goes on, with nothing stored and a new key.

    The exit status is 0 if nothing is stored afterwards, 1 if a file cannot be used, and 2 for
    wrong arguments.
    """
    settings = settings_from(flags)
    path, folder = settings.responses_file, settings.cache_dir
    if not yes:
        if not sys.stdin.isatty():
            fail("forget asks before it deletes; add --yes", 2)
        click.echo(f"responses and conversations: {path}\nhistory: {settings.history_file}")
        click.echo(f"saved prefixes: {folder}")
        click.confirm("Delete all of them?", abort=True)
    try:
        signing_key = delete_signing_key(path)
        responses, conversations, size = delete_everything(path)
    except (OffgridError, OSError) as ex:
        fail(f"{path}: {ex}", 1)
    history, history_size = _forget_history(settings.history_file)
    try:
        prefixes, freed = delete_saved(folder)
    except OSError as ex:
        fail(f"{folder}: {ex}", 1)
    if as_json:
        deleted = {"responses": responses, "conversations": conversations, "bytes_freed": size}
        saved = {"folder": str(folder), "prefixes": prefixes, "prefix_bytes_freed": freed}
        key: dict[str, Any] = {"signing_key": signing_key}
        key |= {"history_file": str(settings.history_file), "history": history}
        key |= {"history_bytes_freed": history_size}
        click.echo(json.dumps({"file": str(path), **deleted, **saved, **key}))
    else:
        click.echo(
            f"deleted {responses} responses and {conversations} conversations from {shown(path)}; "
            f"{mib(size)} became free"
        )
        if history:
            click.echo(
                f"deleted {history} conversations of the history from "
                f"{shown(settings.history_file)}; {mib(history_size)} became free"
            )
        if signing_key:
            click.echo("deleted the key that signs reasoning; the server makes a new one")
        if prefixes:
            click.echo(
                f"deleted {prefixes} prefixes from {shown(folder)}; {mib(freed)} became free"
            )


def _forget_history(path: Path) -> tuple[int, int]:
    """Delete the history; return the numbers of conversations and of freed bytes."""
    try:
        return delete_history(path)
    except (OffgridError, OSError) as ex:
        fail(f"{path}: {ex}", 1)
