"""Reads the ``[models."id"]`` tables of a configuration file: the settings of single models.

This module checks what can be known without the models. Whether the models and the files of a
table exist, and whether sampling parameters are in range, is checked where they are used
(:mod:`offgrid.store.profiles`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from offgrid.config.model import KEYS, OVERRIDES, LoraFile, ModelSettings
from offgrid.config.similar import did_you_mean
from offgrid.config.table import BY_NAME
from offgrid.config.values import to_bool, to_list
from offgrid.errors import ConfigError

MODELS = "models"
"""The key of the tables."""
_MAX_SCALE = 1000.0
_MAX_PROMPT = 1 << 20
"""Most characters of a system prompt."""


def parse_models(tables: Any, file: Path) -> tuple[ModelSettings, ...]:
    """Return the settings of all models.

    Args:
        tables: the value of ``models`` in the file.
        file: the configuration file. Paths in it are relative to its folder.

    Raises:
        ConfigError: the message names the file and the key.
    """
    if not isinstance(tables, dict):
        raise ConfigError(f'{file}: models must be tables, such as [models."my-model"]')
    return tuple(_Table(file, name).parse(tables[name]) for name in tables)


class _Table:
    """One table of the file."""

    def __init__(self, file: Path, name: str) -> None:
        self._folder = file.expanduser().absolute().parent
        self._name = name
        self._source = f'{file}: models."{name}"'

    def parse(self, table: Any) -> ModelSettings:
        """Check the values of the table."""
        if not isinstance(table, dict):
            raise ConfigError(f"{self._source} must be a table of settings, not {table!r}")
        if not self._name.strip():
            raise ConfigError(f"{self._source}: the name of a model is empty")
        for key in table:
            if key not in KEYS:
                raise ConfigError(f"{self._source}: unknown setting {key}{_advice(key)}")
        values = {key: self._value(key, value) for key, value in table.items()}
        return ModelSettings(self._name, self._source, self._folder, **values)

    def _value(self, key: str, value: Any) -> Any:
        source = f"{self._source}.{key}"
        if key in OVERRIDES:
            return BY_NAME[key].parse(value, source)
        if key == "pin":
            return _parsed(to_bool, value, source, "true or false")
        if key == "aliases":
            return _parsed(to_list, value, source, "a list of names")
        if key == "lora":
            return self._lora(value, source)
        if key == "sampling":
            if not isinstance(value, dict):
                raise ConfigError(f"{source} must be a table such as {{ temperature = 0.2 }}")
            return tuple(value.items())
        return self._text(key, value, source)

    def _text(self, key: str, value: Any, source: str) -> str:
        if not isinstance(value, str) or (key != "system_prompt" and not value.strip()):
            raise ConfigError(f"{source}: {value!r} is not text")
        if len(value) > _MAX_PROMPT:
            raise ConfigError(f"{source} has more than {_MAX_PROMPT} characters")
        return value

    def _lora(self, value: Any, source: str) -> tuple[LoraFile, ...]:
        items = value if isinstance(value, list) else [value]
        return tuple(self._adapter(item, source) for item in items)

    def _adapter(self, item: Any, source: str) -> LoraFile:
        """Return an adapter, given as a path or as a table with ``path`` and ``scale``."""
        given = {"path": item} if isinstance(item, str) else item
        if not isinstance(given, dict) or not isinstance(given.get("path"), str):
            raise ConfigError(
                f"{source}: {item!r} is neither a path nor a table such as "
                '{ path = "a.gguf", scale = 0.5 }'
            )
        for key in given:
            if key not in ("path", "scale"):
                raise ConfigError(f"{source}: unknown key {key}; there are path and scale")
        scale = given.get("scale", 1.0)
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not number or not -_MAX_SCALE <= scale <= _MAX_SCALE:
            raise ConfigError(f"{source}: scale must be a number from -1000 to 1000, not {scale!r}")
        return LoraFile(self._path(given["path"], source), float(scale))

    def _path(self, text: str, source: str) -> Path:
        try:
            path = Path(text).expanduser()
        except RuntimeError:  # "~nobody"
            path = Path(text)
        if not text.strip() or "\0" in text:
            raise ConfigError(f"{source}: {text!r} is not a path")
        return self._folder / path


def _advice(key: str) -> str:
    return did_you_mean(key, KEYS) or (
        f"; the settings of a model are {', '.join(KEYS)}, and sampling parameters such as "
        "temperature belong into its table sampling"
    )


def _parsed(convert: Callable[[Any], Any], value: Any, source: str, words: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError):
        raise ConfigError(f"{source}: {value!r} is not {words}") from None
