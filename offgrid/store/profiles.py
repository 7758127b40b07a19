"""The settings of single models, checked as far as the models on disk do not matter.

A profile is a ``[models."id"]`` table (:mod:`offgrid.config.model`) together with the chat
template that it names. The catalogue attaches it to the model with that id. A profile with a
``base`` makes a new model of the file of another one, for example with a LoRA adapter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offgrid.config import LoraFile, ModelSettings, did_you_mean
from offgrid.errors import ConfigError, InvalidParameter
from offgrid.sampling.params import RANGES

CHAT_TEMPLATES = ("chatml",)
"""Values of the setting ``chat_template`` that are names and not paths."""
_MAX_TEMPLATE = 1 << 20
"""Most bytes of a file with a chat template."""
_OTHER_NAMES = {"repeat_penalty": "repetition_penalty", "typical": "typical_p"}
_NO_PARAMETERS = {
    "max_tokens": "it is a field of requests",
    "seed": "a request without a seed draws one",
    "stop": "it is a field of requests",
}


class Profiles:
    """The settings of all models that have a table.

    Args:
        models: the tables.

    Attributes:
        by_id: the settings by id, with checked sampling parameters.
        templates: the chat template of each id that has one.
        aliases: the names that the tables give, each with its id.

    Raises:
        ConfigError: a value is wrong; the message names the file and the key.
    """

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self.by_id: dict[str, ModelSettings] = {}
        self.templates: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        for own in models:
            check_sampling(own)
            self.by_id[own.name] = own
            if own.chat_template is not None:
                self.templates[own.name] = _template(own)
            for alias in own.aliases:
                if self.aliases.setdefault(alias, own.name) != own.name:
                    raise ConfigError(
                        f"{own.key('aliases')}: {alias} is an alias of {self.aliases[alias]} too"
                    )
        for own in models:
            self._check_base(own)

    def _check_base(self, own: ModelSettings) -> None:
        if own.base == own.name:
            raise ConfigError(
                f"{own.key('base')}: {own.name} cannot be its own base; leave base out to give a "
                "file settings, or choose another name for a new model"
            )
        base = self.by_id.get(own.base) if own.base is not None else None
        if base is not None and base.base is not None:
            raise ConfigError(
                f"{own.key('base')}: {own.base} has a base itself; name the model {base.base}"
            )

    @property
    def adapters(self) -> set[Path]:
        """The files of all adapters."""
        files = [lora.path for own in self.by_id.values() for lora in own.lora]
        return {Path(os.path.abspath(path)) for path in files}

    @property
    def pinned(self) -> list[str]:
        """The ids of the pinned models, in the order of the file."""
        return [name for name, own in self.by_id.items() if own.pin]


def check_sampling(own: ModelSettings) -> None:
    """Check the sampling parameters of a table against the ranges of requests.

    Raises:
        ConfigError: one does not exist, or its value is out of range.
    """
    for name, value in own.sampling:
        source = f"{own.source}.sampling.{name}"
        limits = RANGES.get(_OTHER_NAMES.get(name, name))
        if limits is None:
            reason = _NO_PARAMETERS.get(name)
            advice = f" ({reason})" if reason else did_you_mean(name, RANGES)
            raise ConfigError(f"{source} is not a sampling parameter of a model{advice}")
        try:
            limits.check_api(name, value)
        except InvalidParameter as ex:
            raise ConfigError(f"{source}: {ex}") from None


def sampling_defaults(own: ModelSettings) -> Mapping[str, Any]:
    """Return checked parameters under the names and with the values of the library."""
    named = {_OTHER_NAMES.get(name, name): value for name, value in own.sampling}
    return {name: RANGES[name].of_api(value) for name, value in named.items()}


def adapter_stamp(adapters: Sequence[LoraFile]) -> tuple[int, ...]:
    """Return size, modification time in nanoseconds and inode of each adapter.

    Raises:
        OSError: one cannot be found; its ``filename`` is the path.
    """
    stamp: tuple[int, ...] = ()
    for lora in adapters:
        status = lora.path.stat()
        stamp += (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamp


# --- chat templates -------------------------------------------------------------------------------


def _template(own: ModelSettings) -> str:
    text = own.chat_template or ""
    if text not in CHAT_TEMPLATES:
        text = os.path.join(own.folder, os.path.expanduser(text))
    return read_template(text, own.key("chat_template"))


def read_template(setting: str, source: str) -> str:
    """Return the chat template that a setting names.

    Args:
        setting: a path, or one of :data:`CHAT_TEMPLATES`.
        source: the setting, for messages.

    Raises:
        ConfigError: there is no such file, or it is not text.
    """
    if setting in CHAT_TEMPLATES:
        return setting
    try:
        if "\0" in setting:
            raise FileNotFoundError
        with Path(os.path.expanduser(setting)).open("rb") as file:
            data = file.read(_MAX_TEMPLATE + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{source}: {setting!r} is neither a file nor one of the names "
            f"{', '.join(CHAT_TEMPLATES)}"
        ) from None
    except OSError as ex:
        reason = "permission denied" if isinstance(ex, PermissionError) else ex.strerror or ex
        raise ConfigError(f"{source}: {setting!r} cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: {setting!r} is not text in UTF-8") from None
    if len(data) > _MAX_TEMPLATE:
        raise ConfigError(f"{source}: {setting!r} is larger than {_MAX_TEMPLATE >> 20} MiB")
    if not text.strip():
        raise ConfigError(f"{source}: {setting!r} is empty")
    return text
