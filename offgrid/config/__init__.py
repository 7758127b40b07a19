"""All settings in one table: name, type, default, range, meaning.

Each setting has one name: ``ctx_size`` in a file is ``--ctx-size`` as a flag and
``OFFGRID_CTX_SIZE`` as a variable. Precedence, lowest to highest: the default, the TOML file, the
environment, the command line. A value that does not parse or is out of range raises
:class:`~offgrid.errors.ConfigError`, whose message names the value's source.

:mod:`~offgrid.config.table` has the table, :mod:`~offgrid.config.values` the types,
:mod:`~offgrid.config.sources` reads file, environment and flags, and
:mod:`~offgrid.config.reloading` changes settings while the server runs.
"""

from __future__ import annotations

from offgrid.config.model import NO_SETTINGS, OVERRIDES, LoraFile, ModelSettings
from offgrid.config.network import is_local, is_loopback, networks
from offgrid.config.reloading import Commit, Reloaded, Reloads
from offgrid.config.setting import Setting, flag_of, variable_of
from offgrid.config.similar import did_you_mean, similar
from offgrid.config.sources import (
    API_KEY,
    OTHER_VARIABLES,
    Resolved,
    config_file_in_use,
    default_config_file,
    load_settings,
    resolve,
)
from offgrid.config.table import (
    BY_NAME,
    GROUPS,
    KV_TYPES,
    MAX_REQUESTS,
    TABLE,
    Settings,
    default_keys_file,
    default_models_dir,
    default_responses_file,
)
from offgrid.config.values import FOREVER, shown_lifetime, to_lifetime

__all__ = [
    "API_KEY", "BY_NAME", "FOREVER", "GROUPS", "KV_TYPES", "MAX_REQUESTS", "NO_SETTINGS",
    "OTHER_VARIABLES", "OVERRIDES", "TABLE",
    "Commit", "LoraFile", "ModelSettings", "Reloaded", "Reloads", "Resolved", "Setting",
    "Settings", "config_file_in_use", "default_config_file", "default_keys_file",
    "default_models_dir", "default_responses_file", "did_you_mean", "flag_of", "is_local",
    "is_loopback", "load_settings", "networks", "resolve",
    "shown_lifetime", "similar", "to_lifetime", "variable_of",
]  # fmt: skip
