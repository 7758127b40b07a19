"""``offgrid backup`` and ``offgrid restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from offgrid.cli.options import GivenPath, chosen_options, fail, resolved_settings, settings_from
from offgrid.config import Settings, config_file_in_use, default_config_file
from offgrid.errors import OffgridError
from offgrid.store.backup import write_backup
from offgrid.store.backup_parts import PARTS
from offgrid.store.disk import mib
from offgrid.store.restore import restore_backup
from offgrid.terminal import shown

_SETTINGS = ("models_dir", "filter_file", *(part.setting for part in PARTS))
_IDENTITY = "certificate.pem"


@click.command()
@click.argument("file", type=GivenPath())
@chosen_options(*_SETTINGS)
def backup(file: Path, **flags: Any) -> None:
    """Write keys, history, configuration and filters into one file.

    The history is what /v1/responses and /v1/conversations store. The peers of this machine, and
    the key by which they know it, are in the file too. A server may run meanwhile. The file is a
    zip archive that only its owner can read; it is not encrypted. Models are not in it: 'offgrid
    export' copies them.

    The exit status is 0 if the backup is complete, 1 if a file cannot be read or written, and 2 for
    wrong arguments.
    """
    settings = settings_from(flags)
    try:
        written = write_backup(file, settings, _config(flags))
    except OffgridError as ex:
        fail(str(ex), 1)
    for part in written.files:
        click.echo(f"  {part.name:<24} {mib(part.size)}")
    for path in written.absent:
        click.echo(f"  {shown(path)} does not exist yet")
    for path in written.elsewhere:
        click.echo(
            f"  {shown(path)} is not in the backup: it is not in the folder of the configuration"
        )
    for name, whose in written.without_filter.items():
        click.echo(f"  {shown(name)}, the filter file of {shown(whose)}, does not exist")
    click.echo(f"wrote {shown(file)}, {mib(written.size)}")


@click.command()
@click.argument("file", type=GivenPath())
@click.option("--force", is_flag=True, help="Replace files that exist; copies of them stay.")
@chosen_options(*_SETTINGS)
def restore(file: Path, force: bool, **flags: Any) -> None:
    """Restore keys, history, configuration and filters of a backup.

    The whole backup is checked before anything changes. A server may run meanwhile: it has the
    restored keys and history at once, and the configuration and filters that were replaced after
    SIGHUP or a restart. With --no-config, the configuration and its filter stay as they are.

    The exit status is 0 if everything is restored, 1 if not, and 2 for wrong arguments.
    """
    chosen = _config(flags)
    config = None if flags.get("config") == "" else chosen or default_config_file()

    def settings_of(path: Path | None) -> Settings:
        given = flags if path is None else {**flags, "config": str(path)}
        return resolved_settings(given).settings

    try:
        done = restore_backup(file, config, settings_of, force=force)
    except OffgridError as ex:
        fail(str(ex), 1)
    for path in done.targets:
        click.echo(f"  restored {shown(path)}")
    for path in done.asides:
        click.echo(f"  what was there is in {shown(path)}")
    for model in done.missing:
        click.echo(f"  the model {shown(model)} is not on this machine")
    for name, whose in done.without_filter.items():
        click.echo(
            f"  {shown(name)}, the filter file of {shown(whose)}, does not exist: without it, "
            "nothing is answered"
        )
    if done.unnamed_filter is not None:
        click.echo(
            f"  the content filter is in {shown(done.unnamed_filter)}, and nothing names it: set "
            "filter_file to this path, or answers are not filtered"
        )
    if any(path.name == _IDENTITY for path in done.targets):
        click.echo(
            "This machine has the identity of the backup for its peers, after a restart of the "
            "server. Do not run a second server with it."
        )
    if done.config:
        click.echo("A server that runs reads the configuration after SIGHUP or a restart.")


def _config(flags: dict[str, Any]) -> Path | None:
    """Return the configuration file in use; None if there is none."""
    given = flags.get("config")
    file = config_file_in_use() if given is None else given
    return Path(file) if file else None
