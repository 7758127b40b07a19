"""Command-line options, generated from the table of settings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from offgrid.cli.help import SettingOption
from offgrid.config import (
    API_KEY,
    TABLE,
    Resolved,
    Setting,
    Settings,
    config_file_in_use,
    flag_of,
    load_settings,
    resolve,
)
from offgrid.errors import OffgridError
from offgrid.terminal import shown

F = TypeVar("F", bound=Callable[..., Any])
_DESTINATIONS = {"model": "default_model"}
"""Setting -> the command's parameter, if it is not the setting's name: commands have an argument
MODEL."""
NOTE = (
    "Each option is also a key of the configuration file and a variable: --ctx-size is ctx_size "
    "and OFFGRID_CTX_SIZE. 'offgrid config show' prints all values in force."
)
"""The end of the help of a command with options for settings."""


class GivenPath(click.Path):
    """Any path but an empty one, which would mean the current folder. It comes from a variable of
    the shell that is not set."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("the path is empty; the current folder is called .", param, ctx)
        return super().convert(value, param, ctx)


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the ids that begin with what was typed, and otherwise files, for the shell."""
    from offgrid.store.catalogue import Catalogue

    flags = {"models_dir": ctx.params.get("models_dir"), "model": ""}
    try:
        none = ctx.params.get("no_config")
        settings = load_settings(flags, config_file="" if none else _config_of(ctx.params))
        ids = [entry.id for entry in Catalogue(settings).entries()]
    except OffgridError:
        ids = []
    found = [CompletionItem(id) for id in ids if id.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def api_key_option(function: F) -> F:
    """Add ``--api-key``, also from the variable. The command gets ``api_key``: a key or None."""
    return click.option(
        "--api-key", metavar="KEY", envvar=API_KEY,
        help=f"The key for a server that needs one. {API_KEY} is safer, because other users can "
        "see arguments.",
    )(function)  # fmt: skip


def setting_options(function: F) -> F:
    """Add an option for every setting, and those of the configuration file. Values arrive unparsed,
    None if absent."""
    return chosen_options(*(setting.name for setting in TABLE))(function)


def chosen_options(*names: str) -> Callable[[F], F]:
    """Add an option for each named setting, and those of the configuration file. Values arrive as
    above."""

    def decorated(function: F) -> F:
        for setting in reversed(TABLE):
            if setting.name in names:
                function = _option(setting)(function)
        return config_options(function)

    return decorated


def config_options(function: F) -> F:
    """Add ``--config`` and ``--no-config``.

    The command gets ``config``: a path, ``""`` for none, or None if neither was given.
    """

    @functools.wraps(function)
    def wrapped(*arguments: Any, config: str | None, no_config: bool, **flags: Any) -> Any:
        if no_config and config is not None:
            raise click.UsageError(
                f"--no-config and --config {config} contradict each other; give only one of them"
            )
        return function(*arguments, config="" if no_config else config, **flags)

    # click's decorators keep the type of a function, functools.wraps does not.
    made = click.option("--no-config", is_flag=True, help="Read no configuration file.")(
        cast(F, wrapped)
    )
    return click.option(
        "--config",
        metavar="FILE",
        default=None,
        shell_complete=_complete_file,
        help="TOML file with settings, instead of the one that 'offgrid config path' prints.",
    )(made)


def models_dir_options(function: F) -> F:
    """Add ``--models-dir`` and ``--config``.

    The command gets ``models_dir``, the path in force, ``hashes``, and ``config_file``, the path of
    the configuration file in use or ``""``.
    """

    @functools.wraps(function)
    def wrapped(*arguments: Any, **flags: Any) -> Any:
        from offgrid.store.hashes import Hashes

        chosen = {name: flags.pop(name) for name in ("models_dir", "config")}
        settings = settings_from(chosen)
        file = _config_of(chosen)
        file = config_file_in_use() if file is None else file
        hashes = Hashes.beside(settings.responses_file)
        return function(
            *arguments, models_dir=settings.models_dir, hashes=hashes, config_file=file, **flags
        )

    return chosen_options("models_dir")(cast(F, wrapped))


def settings_from(flags: dict[str, Any], paths: Iterable[Path] = ()) -> Settings:
    """Return the settings in force; on an error, exit with status 2 and a message about it.

    Args:
        flags: the options by name.
        paths: files and folders of models.
    """
    try:
        return resolved_settings(flags, paths).settings
    except OffgridError as ex:
        fail(str(ex), 2)


def resolved_settings(flags: dict[str, Any], paths: Iterable[Path] = ()) -> Resolved:
    """Return the settings in force with their sources.

    Raises:
        ConfigError: a setting is wrong.
    """
    return resolve(flags, config_file=_config_of(flags), model_paths=paths)


def fail(message: str, status: int) -> NoReturn:
    """Print an error and exit. Its text is escaped, because it may quote arbitrary input."""
    click.echo(f"offgrid: {shown(message)}", err=True)
    sys.exit(status)


def _option(setting: Setting) -> Callable[[F], F]:
    flags = [flag_of(name) for name in setting.names]
    if setting.kind == "bool":
        flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
    if setting.short:
        flags.insert(0, setting.short)
    return click.option(
        *flags,
        _DESTINATIONS.get(setting.name, setting.name),
        cls=SettingOption,
        setting=setting,
        default=None,
        help=setting.meaning,
        shell_complete=_completion_of(setting),
    )


def _completion_of(setting: Setting) -> Callable[..., list[CompletionItem]] | None:
    if setting.name == "model":
        return complete_model
    if setting.kind == "path":
        return _complete_file
    words = [*setting.choices, *(word for word, _ in setting.words)]
    if not words:
        return None
    return lambda ctx, param, incomplete: [
        CompletionItem(word) for word in words if word.startswith(incomplete)
    ]


def _complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _config_of(flags: dict[str, Any]) -> str | None:
    file = flags.get("config")
    return None if file is None else str(file)
