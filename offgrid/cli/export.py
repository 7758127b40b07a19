"""``offgrid export``."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from offgrid.cli.help import Command
from offgrid.cli.options import GivenPath, complete_model, fail, models_dir_options
from offgrid.cli.progress import Teller
from offgrid.config import Settings, load_settings
from offgrid.errors import ConfigError, OffgridError, TransferError
from offgrid.store.catalogue import STARTER_PATH, Catalogue
from offgrid.store.disk import mib
from offgrid.store.draft_models import with_drafts
from offgrid.store.exports import chosen, export_models
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome
from offgrid.store.installer import run_pip, write_installer
from offgrid.store.survey import ModelEntry


@click.command(cls=Command, short_help="Copy models to a stick or folder.")
@click.argument("dest", type=GivenPath())
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_model)
@click.option("--with-config", is_flag=True, help="Copy the configuration file too.")
@click.option(
    "--with-installer",
    is_flag=True,
    help="Add OffGrid itself with all packages it needs, for this platform and Python version.",
)
@click.option(
    "--installer-from",
    metavar="PATH",
    type=click.Path(path_type=Path, exists=True),
    help="A wheel or source folder of this version of OffGrid, if pip does not find one.",
)
@click.option(
    "--replace",
    "overwrite",
    is_flag=True,
    help="Replace different files that have the same name.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one per line.")
@models_dir_options
def export(
    dest: Path,
    models: tuple[str, ...],
    with_config: bool,
    with_installer: bool,
    installer_from: Path | None,
    overwrite: bool,
    as_json: bool,
    models_dir: Path,
    hashes: Hashes,
    config_file: str,
) -> None:
    """Copy models to a stick or folder DEST, from where offgrid import reads them.

    Without MODEL, all models of the models directory are copied. Draft models that the settings
    give them are copied too. A manifest with the size and
    SHA-256 of each file is written. An interrupted export is continued by the same command.

    --with-installer adds install.sh and install.bat, which install OffGrid from DEST and import the
    models, without a network.

    The exit status is 0 if all models are at DEST afterwards, 1 if one is not, 2 for wrong
    arguments, and 130 after Ctrl-C.
    """
    teller = Teller(as_json)
    config = None
    if with_config:
        if not config_file:
            fail("--with-config: no configuration file is in use; name one with --config", 2)
        config = Path(config_file)
    try:
        settings = load_settings({"models_dir": str(models_dir)}, config_file=config_file)
        found, passed_over = Catalogue.of_files(replace(settings, model="")).survey()
        entries = [entry for entry in found if entry.path != STARTER_PATH]
        if models:
            entries, passed_over = chosen(entries, models), []
        elif not entries and not passed_over:
            raise TransferError(f"{models_dir} contains no models", "not_found")
        drafts = with_drafts(entries, found, _configured(settings))
        entries = [entry for entry in drafts if entry.path != STARTER_PATH]
    except OffgridError as ex:
        fail(str(ex), 2)
    try:
        with teller.running():
            unusable = [Outcome("failed", file.path.name, file.reason) for file in passed_over]
            for outcome in unusable:
                teller.outcome(outcome)
            outcomes = unusable + export_models(
                entries,
                models_dir,
                dest,
                replace=overwrite,
                config=config,
                report=teller.progress,
                tell=teller.outcome,
                hashes=hashes,
            )
            if with_installer or installer_from is not None:
                teller.line("collecting the packages of this installation with pip")
                show = not as_json and sys.stdout.isatty()
                pip = functools.partial(run_pip, show=show)
                count, size = write_installer(dest, installer_from, pip)
                teller.event(event="installer", wheels=count, size=size)
                teller.line(
                    f"installer {count} packages ({mib(size)}); run install.sh or install.bat"
                )
    except TransferError as ex:
        teller.event(event="end", status="failed", code=ex.code, reason=str(ex))
        fail(str(ex), 2 if ex.code == "not_found" else 1)
    except KeyboardInterrupt:
        teller.event(event="end", status="interrupted")
        teller.line("stopped; the same command continues the export")
        sys.exit(130)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    wrong = counts["failed"] + counts["skipped"]
    teller.event(event="end", status="failed" if wrong else "done", **counts)
    words = ", ".join(f"{counts[status]} {status}" for status in counts)
    there = counts["exported"] + counts["identical"]
    hint = f"; now 'offgrid import {dest}' works on another machine" if there else ""
    teller.line(f"{words}{hint}")
    sys.exit(1 if wrong else 0)


def _configured(settings: Settings) -> Sequence[ModelEntry]:
    """Return the models as the settings make them; none if the settings cannot be used now: that
    hinders no copy."""
    try:
        return Catalogue(settings).entries()
    except ConfigError:
        return ()
