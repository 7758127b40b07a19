"""``offgrid serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import (
    NOTE,
    GivenPath,
    resolved_settings,
    setting_options,
    settings_from,
)


@click.command(cls=Command, epilog=NOTE)
@click.argument("paths", nargs=-1, metavar="[FILE_OR_FOLDER]...", type=GivenPath())
@setting_options
def serve(paths: tuple[Path, ...], **flags: Any) -> None:
    """Serve models over HTTP until Ctrl-C is pressed.

    Give GGUF files or folders with GGUF files to serve these; the first one, if it is a file, is
    the default model. Without any, the models directory is served.
    """
    settings = settings_from(flags, paths)
    from offgrid.cli.serving import serve_models

    serve_models(settings, lambda: resolved_settings(flags, paths).settings)
