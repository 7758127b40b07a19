"""Command-line options, generated from the table of settings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click

from offgrid.config import TABLE, Setting, Settings, load_settings
from offgrid.errors import OffgridError
from offgrid.terminal import shown

F = TypeVar("F", bound=Callable[..., Any])
_CONFIG = click.option(
    "--config", metavar="FILE", help="TOML file with settings.  [env: OFFGRID_CONFIG]"
)


def setting_options(function: F) -> F:
    """Add an option for every setting, and ``--config``. Values arrive unparsed, None if absent."""
    for setting in reversed(TABLE):
        function = _option(setting)(function)
    return _CONFIG(function)


def models_dir_options(function: F) -> F:
    """Add ``--models-dir`` and ``--config``.

    The command gets ``models_dir``, the path in force, and ``config_file`` as it was given or None.
    """

    @functools.wraps(function)
    def wrapped(*arguments: Any, **flags: Any) -> Any:
        chosen = {name: flags.pop(name) for name in ("models_dir", "config")}
        file = chosen["config"]
        models_dir = settings_from(chosen).models_dir
        return function(*arguments, models_dir=models_dir, config_file=file, **flags)

    setting = next(setting for setting in TABLE if setting.name == "models_dir")
    # click's decorators keep the type of a function, functools.wraps does not.
    decorated: Any = _CONFIG(_option(setting)(wrapped))
    return cast(F, decorated)


def _option(setting: Setting) -> Callable[[F], F]:
    help_text = f"{setting.meaning}  [env: {setting.env}]"
    if setting.kind == "bool":
        spelling = f"{setting.option}/--no-{setting.option[2:]}"
        return click.option(spelling, setting.name, default=None, help=help_text)
    return click.option(
        setting.option, setting.name, metavar=setting.kind.upper(), default=None, help=help_text
    )


def settings_from(flags: dict[str, Any], paths: Iterable[Path] = ()) -> Settings:
    """Return the settings in force; on an error, exit with status 2 and a message about it.

    Args:
        flags: the options by name.
        paths: files and folders of models.
    """
    config = flags.get("config")
    try:
        return load_settings(flags, config_file=config, model_paths=paths)
    except OffgridError as ex:
        fail(str(ex), 2)


def fail(message: str, status: int) -> NoReturn:
    """Print an error and exit. Its text is escaped, because it may quote arbitrary input."""
    click.echo(f"offgrid: {shown(message)}", err=True)
    sys.exit(status)
