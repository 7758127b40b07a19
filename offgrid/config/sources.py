"""Where settings come from: the defaults, a TOML file, the environment, flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from offgrid.config.model import NO_SETTINGS, ModelSettings
from offgrid.config.model_tables import MODELS, parse_models
from offgrid.config.network_rules import check_network
from offgrid.config.setting import PREFIX, flag_of, variable_of
from offgrid.config.similar import did_you_mean, similar
from offgrid.config.table import (
    BY_NAME,
    MAX_REQUESTS,
    QUANTISED_KV_TYPES,
    TABLE,
    Settings,
    default_keys_file,
    default_models_dir,
    default_responses_file,
)
from offgrid.config.values import in_folder
from offgrid.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - depends on the interpreter
    import tomli as tomllib

_PREFIXES = "prefixes"
"""The default folder of saved prefixes, beside the file of stored responses."""
_HISTORY = "history.sqlite3"
"""The default file of the history, beside it."""
_PEERS = "peers"
"""The default folder of this machine's identity and its peers, beside it."""
_FILES = ("responses_file", "history_file", "keys_file")
"""Settings that name SQLite files, each with its own tables."""
_CONFIG = f"{PREFIX}CONFIG"
API_KEY = f"{PREFIX}API_KEY"
"""The variable with the key that commands send to a server. No setting, because settings are
shown."""
OTHER_VARIABLES = frozenset({_CONFIG, API_KEY})
"""``OFFGRID_*`` names that are not rows of the table: the path of the configuration file, and a
key."""
_HELP = "offgrid config show lists all settings"

Given = dict[str, tuple[Any, str]]
"""Name of a setting, never an alias -> its value and its source in words."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings in force, and where each comes from.

    Attributes:
        settings: checked settings.
        sources: setting name -> the flag, variable or key that set it; absent for a default.
        file: the configuration file that was read; None if there is none.
    """

    settings: Settings
    sources: dict[str, str]
    file: Path | None


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    model_paths: Iterable[Path] = (),
) -> Settings:
    """Merge default, file, environment and flags into one checked :class:`Settings`.

    Args:
        flags: values by setting name or alias; ``None`` means not given.
        environ: the environment; ``os.environ`` if omitted.
        config_file: a TOML file, or ``""`` for none. If omitted, see :func:`config_file_in_use`.
        model_paths: files and folders of models, in addition to the settings.

    Raises:
        ConfigError: a value does not parse or is out of range, an unknown ``OFFGRID_*`` variable
            or file key is set, or the file cannot be read.
    """
    return resolve(flags, environ, config_file, model_paths).settings


def resolve(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    model_paths: Iterable[Path] = (),
) -> Resolved:
    """Do the same as :func:`load_settings`, and return the sources too."""
    source = "--config: " if config_file is not None else _config_source(environ)
    if config_file is None:
        config_file = config_file_in_use(environ)
    environ = os.environ if environ is None else environ
    file = Path(config_file).expanduser() if config_file else None
    values: dict[str, Any] = {setting.name: setting.default for setting in TABLE}
    values["keys_file"] = default_keys_file()
    values["models_dir"] = default_models_dir()
    values["responses_file"] = default_responses_file()
    sources: dict[str, str] = {}
    # Each value is checked, and the last one is in force.
    in_file, own = _read_file(file, source)
    for given in (in_file, _read_variables(environ), _read_flags(flags or {})):
        for name, (value, source) in given.items():
            values[name] = BY_NAME[name].parse(value, source)
            sources[name] = source
    if values["cache_dir"] is None:
        values["cache_dir"] = values["responses_file"].with_name(_PREFIXES)
    if values["history_file"] is None:
        values["history_file"] = values["responses_file"].with_name(_HISTORY)
    if values["peers_dir"] is None:
        values["peers_dir"] = values["responses_file"].with_name(_PEERS)
    settings = Settings(
        **values,
        models_dir_source=sources.get("models_dir", ""),
        model_paths=tuple(model_paths),
        given=frozenset(sources),
        models=own,
    )
    _check(settings)
    return Resolved(settings, sources, file)


def default_config_file() -> Path:
    """Return the file that is read if it exists and no other is named: ``offgrid.toml`` in
    ``~/.config/offgrid``, or where the system keeps the settings of programs."""
    return Path(click.get_app_dir("offgrid")) / "offgrid.toml"


def config_file_in_use(environ: Mapping[str, str] | None = None) -> str:
    """Return the path of the configuration file that is read without a flag, or ``""``.

    It is the one that ``OFFGRID_CONFIG`` names, or else the default one if it exists. An
    environment that is passed as an argument has no default file.
    """
    named = (os.environ if environ is None else environ).get(_CONFIG)
    if named or environ is not None:
        return named or ""
    default = default_config_file()
    return str(default) if os.path.lexists(default) else ""


def _check(settings: Settings) -> None:
    """Check rules about several settings."""
    requests = settings.usual_requests + settings.more_requests
    if requests > MAX_REQUESTS:
        parallel, queue, models = (
            BY_NAME[name].source_names for name in ("parallel", "queue_size", "max_models")
        )
        raise ConfigError(
            f"{parallel} plus {queue}, times {models}, allows {requests} open requests, with a "
            f"quarter for further clients; the maximum is {MAX_REQUESTS}. Lower one of the three."
        )
    for own in (NO_SETTINGS, *settings.models):
        _check_attention(settings, own)
    _check_files(settings)
    check_network(settings)


def _check_files(settings: Settings) -> None:
    """Check that each file of data is one: tables of one would replace those of another."""
    first: dict[Path, str] = {}
    for name in _FILES:
        path = getattr(settings, name).absolute()
        other = first.setdefault(path, name)
        if other != name:
            one, two = BY_NAME[other].source_names, BY_NAME[name].source_names
            raise ConfigError(f"{one} and {two} name the same file, {path}. Choose two files.")


def _check_attention(settings: Settings, own: ModelSettings) -> None:
    """Check that a model whose values are quantised may use flash attention."""
    values = own.kv_type_v or settings.kv_type_v
    if values not in QUANTISED_KV_TYPES:
        return
    if (own.flash_attention or settings.flash_attention) == "off":
        where = {
            name: own.key(name) if getattr(own, name) else BY_NAME[name].source_names
            for name in ("kv_type_v", "flash_attention")
        }
        raise ConfigError(
            f"{where['kv_type_v']}: {values} needs flash attention. Set {where['flash_attention']} "
            "to auto or on, or the type of the values to f16."
        )


def _config_source(environ: Mapping[str, str] | None) -> str:
    """Return what named the configuration file that is read without a flag, for messages."""
    named = (os.environ if environ is None else environ).get(_CONFIG)
    return f"{_CONFIG}: " if named else ""


def _read_file(path: Path | None, source: str) -> tuple[Given, tuple[ModelSettings, ...]]:
    """Return what a TOML file sets, also for single models; nothing if there is no file. Messages
    about a file that cannot be read begin with ``source``."""
    if path is None:
        return {}, ()
    given: Given = {}
    content = _read_toml(path, source)
    own = parse_models(content.pop(MODELS, {}), path)
    for key, value in content.items():
        setting = BY_NAME.get(key)
        if setting is None:
            hint = did_you_mean(key, (*BY_NAME, MODELS)) or f"; {_HELP}"
            raise ConfigError(f"{path}: unknown setting {key}{hint}")
        _refuse_twice(given, setting.name, f"{path}: {key}")
        if setting.is_path(value):
            value = in_folder(path.expanduser().absolute().parent, value)
        given[setting.name] = (value, f"{path}: {key}")
    return given, own


def _read_toml(path: Path, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as ex:
        reason: object = ex.strerror or ex
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as ex:
        reason = ex
    except ValueError:  # Python refuses to convert thousands of digits.
        reason = "a number is too long"
    except RecursionError:
        reason = "its lists are nested too deeply"
    raise ConfigError(f"{source}cannot read {path}: {reason}")


def _read_variables(environ: Mapping[str, str]) -> Given:
    """Return what the environment sets. An unknown variable is refused, so that a misspelt one is
    not silently ignored."""
    known = {variable_of(name): name for name in BY_NAME}
    given: Given = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        if variable not in known:
            raise ConfigError(f"{variable} is not a setting of OffGrid{_hint(variable)}")
        if environ[variable] == "":
            continue
        name = BY_NAME[known[variable]].name
        _refuse_twice(given, name, variable)
        given[name] = (environ[variable], variable)
    return given


def _hint(variable: str) -> str:
    """Return a suggestion for an unknown variable. The prefix, which all have, makes none alike."""
    variables = [*map(variable_of, BY_NAME), *OTHER_VARIABLES]
    suffixes = {name.removeprefix(PREFIX): name for name in variables}
    best = similar(variable.removeprefix(PREFIX), suffixes)
    return f"; did you mean {suffixes[best]}?" if best is not None else f"; {_HELP}"


def _read_flags(flags: Mapping[str, Any]) -> Given:
    """Return what flags set. Names that are not settings belong to the caller."""
    given: Given = {}
    for name, value in flags.items():
        if name in BY_NAME and value is not None:
            given[BY_NAME[name].name] = (value, flag_of(BY_NAME[name].name))
    return given


def _refuse_twice(given: Given, name: str, source: str) -> None:
    if name in given:
        raise ConfigError(f"{source} and {given[name][1]} are the same setting; remove one of them")
