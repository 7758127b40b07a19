"""``offgrid list``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from offgrid.cli.options import fail, setting_options, settings_from
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue
from offgrid.terminal import shown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@setting_options
def models(as_json: bool, **flags: Any) -> None:
    """List the models that offgrid serve would serve."""
    try:
        entries = Catalogue(settings_from(flags)).entries()
    except OffgridError as ex:
        fail(str(ex), 2)
    if as_json:
        rows = [{"id": e.id, "path": _text(e.path), "size": e.size} for e in entries]
        click.echo(json.dumps({"count": len(rows), "models": rows}, indent=2))
        return
    for entry in entries:
        size = f"{entry.size / 2**20:.1f} MiB"
        click.echo(f"{shown(entry.id)}\t{size}\t{shown(entry.path)}")


def _text(path: Path) -> str:
    """Return a path as Unicode text; bytes that are not UTF-8 become U+FFFD, for JSON."""
    return os.fsencode(path).decode("utf-8", "replace")
