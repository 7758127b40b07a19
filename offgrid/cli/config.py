"""``offgrid config``."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import click

from offgrid.cli.help import Command, Group
from offgrid.cli.options import config_options, fail, resolved_settings
from offgrid.cli.output import echo_wrapped, print_table
from offgrid.config import (
    FOREVER,
    GROUPS,
    TABLE,
    Setting,
    config_file_in_use,
    default_config_file,
    resolve,
    shown_lifetime,
)
from offgrid.errors import OffgridError
from offgrid.terminal import shown

_WIDTH = 98
_SINGLE_MODEL = """\
# A table has the settings of a single model. Tables come after all other settings:
#
#     [models."my-model"]
#     aliases = ["gpt-4o"]
#     keep_alive = "10m"
#     sampling = { temperature = 0.6 }"""


@click.group(cls=Group, short_help="Show the settings in force, and where they come from.")
def config() -> None:
    """Show the settings in force, and where they come from."""


@config.command("show", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the settings as JSON.")
@config_options
def show(as_json: bool, **flags: Any) -> None:
    """Show the value and the source of each setting, and the settings of single models.

    The source is default, an environment variable, or a file with the name of the key.
    """
    try:
        resolved = resolved_settings(flags)
    except OffgridError as ex:
        fail(str(ex), 2)
    values = {setting.name: getattr(resolved.settings, setting.name) for setting in TABLE}
    sources = {name: resolved.sources.get(name, "default") for name in values}
    if as_json:
        file = None if resolved.file is None else str(resolved.file)
        listed = {
            name: {"value": _plain(value), "source": sources[name]}
            for name, value in values.items()
        }
        models = {own.name: own.texts() for own in resolved.settings.models}
        click.echo(json.dumps({"file": file, "settings": listed, "models": models}, indent=2))
        return
    places = {
        name: source.replace(f"{resolved.file}: ", "file: ") for name, source in sources.items()
    }
    rows = [(name, shown(_text(value)), shown(places[name])) for name, value in values.items()]
    for own in resolved.settings.models:
        name = f'models."{own.name}"'
        rows += [(shown(f"{name}.{key}"), shown(text), "file") for key, text in own.texts().items()]
    print_table([("SETTING", "VALUE", "SOURCE"), *rows])
    echo_wrapped("\nfile: ", str(resolved.file or "none"))


@config.command("path", cls=Command)
def path() -> None:
    """Print the path of the configuration file that is read.

    If there is none, it is the path where one would be read.
    """
    in_use = config_file_in_use()
    file = Path(in_use) if in_use else default_config_file()
    click.echo(file)
    if not os.path.exists(file):
        click.echo(
            "offgrid: this file does not exist; 'offgrid config example' prints one", err=True
        )


@config.command("example", cls=Command, short_help="Print a file with all settings.")
def example() -> None:
    """Print a configuration file in which every setting is explained and commented out."""
    for group in GROUPS:
        click.echo(f"# --- {group} ---\n")
        for setting in TABLE:
            if setting.group == group:
                click.echo(_explained(setting))
    click.echo(_SINGLE_MODEL)


def _explained(setting: Setting) -> str:
    """Return the lines about a setting in a TOML file."""
    limits = f" ({setting.limits})" if setting.limits else ""
    lines = textwrap.wrap(f"{setting.meaning}{limits}", _WIDTH, break_on_hyphens=False)
    comment = "\n".join(f"# {line}" for line in lines)
    value = _toml(setting)
    line = f"{setting.name} = {value}" if value is not None else f"{setting.name} is not set"
    return f"{comment}\n# {line}\n"


def _toml(setting: Setting) -> str | None:
    """Return a default as TOML, which depends on the machine for some settings; None if there is
    none."""
    default = setting.default
    if setting.kind == "map":
        return "{}"
    if default is None:
        default = getattr(resolve(environ={}).settings, setting.name)
    if default is None:
        return None
    if isinstance(default, Path):
        default = str(default)
    return json.dumps(default, ensure_ascii=False)


def _text(value: Any) -> str:
    """Return a value as it is written in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, tuple):
        pairs = ["=".join(item) if isinstance(item, tuple) else item for item in value]
        return ",".join(pairs)
    if value == FOREVER:
        return shown_lifetime(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a value for JSON; a map as an object."""
    if isinstance(value, Path):
        return str(value)
    if value == FOREVER:  # JSON has no such number
        return shown_lifetime(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return dict(value)
    return value
