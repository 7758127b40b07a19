"""``offgrid export``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from offgrid.cli.options import fail, models_dir_options
from offgrid.cli.progress import Teller
from offgrid.config import load_settings
from offgrid.errors import OffgridError, TransferError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.exports import chosen, export_models


@click.command()
@click.argument("dest", type=click.Path(path_type=Path))
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--with-config", is_flag=True, help="Copy the configuration file too.")
@click.option("--replace", is_flag=True, help="Replace different files that have the same name.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
@models_dir_options
def export(
    dest: Path,
    models: tuple[str, ...],
    with_config: bool,
    replace: bool,
    as_json: bool,
    models_dir: Path,
    config_file: str | None,
) -> None:
    """Copy models to a stick or folder DEST, from where offgrid import reads them.

    Without MODEL, all models of the models directory are copied. A manifest with the size and
    SHA-256 of each file is written. An interrupted export is continued by the same command.

    The exit status is 0 if all models are at DEST afterwards, 1 if one is not, 2 for wrong
    arguments, and 130 after Ctrl-C.
    """
    teller = Teller(as_json)
    config = None
    if with_config:
        named = config_file or os.environ.get("OFFGRID_CONFIG")
        if not named:
            fail("--with-config: no configuration file is in use; name one with --config", 2)
        config = Path(named)
    try:
        flags: dict[str, Any] = {"models_dir": str(models_dir), "default_model": ""}
        found = Catalogue(load_settings(flags, config_file=config_file)).entries()
        entries = [entry for entry in found if entry.path != STARTER_PATH]
        if models:
            entries = chosen(entries, models)
        elif not entries:
            raise TransferError(f"{models_dir} contains no models", "not_found")
    except OffgridError as ex:
        fail(str(ex), 2)
    try:
        with teller.running():
            outcomes = export_models(
                entries,
                models_dir,
                dest,
                replace=replace,
                config=config,
                report=teller.progress,
                tell=teller.outcome,
            )
    except TransferError as ex:
        teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
        fail(str(ex), 1)
    except KeyboardInterrupt:
        teller.event(event="end", status="interrupted")
        teller.line("stopped; the same command continues the export")
        sys.exit(130)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    wrong = counts["failed"] + counts["skipped"]
    teller.event(event="end", status="failed" if wrong else "done", **counts)
    words = ", ".join(f"{counts[status]} {status}" for status in counts)
    teller.line(f"{words}; now 'offgrid import {dest}' works on another machine")
    sys.exit(1 if wrong else 0)
