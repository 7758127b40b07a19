"""``offgrid verify`` and ``offgrid remove``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import GivenPath, complete_model, fail, models_dir_options
from offgrid.cli.progress import Teller
from offgrid.config import load_settings
from offgrid.errors import OffgridError, TransferError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.disk import mib
from offgrid.store.exports import chosen
from offgrid.store.hashes import Hashes
from offgrid.store.removal import files_to_remove, remove_files
from offgrid.store.verification import Checked
from offgrid.store.verification import verify as verify_folder
from offgrid.terminal import shown


@click.command(cls=Command)
@click.argument("folder", required=False, type=GivenPath())
@click.option("--update", is_flag=True, help="Record the files as they are now.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
@models_dir_options
def verify(
    folder: Path | None,
    update: bool,
    as_json: bool,
    models_dir: Path,
    hashes: Hashes,
    config_file: str,
) -> None:
    """Compare model files with the SHA-256 in their manifest.

    FOLDER is a stick or folder. Without it, the models directory is verified; offgrid import and
    offgrid get keep its manifest.

    The exit status is 1 if a listed file is damaged or missing.
    """
    teller = Teller(as_json)

    def tell(checked: Checked) -> None:
        teller.event(event="file", status=checked.state, name=checked.name, reason=checked.reason)
        reason = f": {checked.reason}" if checked.reason else ""
        teller.line(f"{checked.state:9} {checked.name}{reason}")

    try:
        with teller.running():
            results = verify_folder(
                folder or models_dir,
                update=update,
                report=teller.progress,
                tell=tell,
                hashes=hashes,
            )
    except TransferError as ex:
        teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
        fail(str(ex), 2 if ex.code == "not_found" else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    counts: Counter[str] = Counter(checked.state for checked in results)
    wrong = counts["damaged"] + counts["missing"]
    teller.event(event="end", status="failed" if wrong else "done", **counts)
    teller.line(", ".join(f"{counts[state]} {state}" for state in counts) or "no models")
    sys.exit(1 if wrong else 0)


@click.command(cls=Command)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, shell_complete=complete_model
)
@click.option("--yes", is_flag=True, help="Remove without a question; MODEL must be a whole id.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print what was removed as JSON; needs --yes."
)
@models_dir_options
def remove(
    models: tuple[str, ...],
    yes: bool,
    as_json: bool,
    models_dir: Path,
    hashes: Hashes,
    config_file: str,
) -> None:
    """Delete models from the models directory.

    All parts of a split model are deleted, and a projector whose name says that it belongs to the
    model. A server that has the model loaded keeps serving it until it is unloaded.
    """
    if as_json and not yes:
        raise click.UsageError("--json leaves no room for a question; add --yes")
    try:
        flags: dict[str, Any] = {"models_dir": str(models_dir), "model": ""}
        found = Catalogue.of_files(load_settings(flags, config_file=config_file)).entries()
        known = [entry for entry in found if entry.path != STARTER_PATH]
        # A question shows the files before they are deleted; without one, no id is completed.
        entries = chosen(known, models, beginnings=not yes)
        files = [path for entry in entries for path in files_to_remove(entry)]
        size = sum(path.stat().st_size for path in files)
        if not yes:
            if not sys.stdin.isatty():
                fail("remove asks before it deletes; add --yes", 2)
            names = ", ".join(str(path) for path in files)
            click.confirm(f"Delete {names} ({mib(size)})?", abort=True)
        remove_files(files, models_dir)
    except OffgridError as ex:
        fail(str(ex), 2 if getattr(ex, "code", "") == "not_found" else 1)
    except OSError as ex:
        fail(f"{ex.filename}: cannot be removed ({ex.strerror or ex})", 1)
    ids = [entry.id for entry in entries]
    if as_json:
        texts = [os.fsencode(path).decode("utf-8", "replace") for path in files]
        click.echo(json.dumps({"removed": ids, "files": texts, "bytes_freed": size}))
    else:
        click.echo(shown(f"removed {', '.join(ids)} ({mib(size)})"))
