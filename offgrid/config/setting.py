"""One row of the table of settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offgrid.config.values import CONVERTERS, KIND_WORDS
from offgrid.errors import ConfigError

PREFIX = "OFFGRID_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the attribute of :class:`~offgrid.config.Settings` and the key in a configuration
            file. With dashes it is the flag, in capitals after ``OFFGRID_`` the variable.
        group: one of :data:`~offgrid.config.GROUPS`, under which ``--help`` lists it.
        kind: one of :data:`~offgrid.config.values.CONVERTERS`.
        default: the value if the setting is not set.
        meaning: one or two sentences for the reference page and ``--help``.
        low: smallest allowed number, or None.
        high: largest allowed number, or None.
        choices: the allowed words, or empty for any.
        aliases: older names. Each is also a key, and gives a flag and a variable.
        short: a short flag, such as ``-m``.
        words: words that stand for a number, such as ``("all", -1)``.
        not_paths: if a text is a path, the words and the beginnings of words that are none.
    """

    name: str
    group: str
    kind: str
    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    short: str = ""
    words: tuple[tuple[str, int], ...] = ()
    not_paths: tuple[str, ...] | None = None

    def is_path(self, value: Any) -> bool:
        """Whether a value is a path, which in a file is relative to the file's folder."""
        if not isinstance(value, str) or not value.strip():
            return False
        if self.kind == "path":
            return True
        return self.not_paths is not None and not value.strip().startswith(self.not_paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def env(self) -> str:
        """The environment variable."""
        return variable_of(self.name)

    @property
    def option(self) -> str:
        """The command-line flag."""
        return flag_of(self.name)

    @property
    def source_names(self) -> str:
        """The variable and the flag, for messages that cannot know which one was used."""
        return f"{self.env} ({self.option})"

    @property
    def limits(self) -> str:
        """The allowed values in words; empty if there is no limit."""
        if self.choices:
            return ", ".join(self.choices)
        words = "".join(f", {word}" for word, _ in self.words)
        return f"{self.low} to {self.high}{words}" if self.low is not None else ""

    def parse(self, value: Any, source: str) -> Any:
        """Convert ``value`` (a string, or a native value from a file) and check its range.

        Raises:
            ConfigError: the message names ``source``, the value and the allowed values.
        """
        try:
            parsed = self._converted(value)
        except (ValueError, TypeError, OverflowError):
            words = "".join(f", or {word}" for word, _ in self.words)
            raise ConfigError(
                f"{source}: {value!r} is not {KIND_WORDS[self.kind]}{words}"
            ) from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"{source}: {value!r} is not one of {', '.join(self.choices)}")
        # Only numbers have a range in the table.
        number: Any = parsed
        if self.low is not None and number < self.low:
            raise ConfigError(f"{source}: {value} is too small; the minimum is {self.low}")
        if self.high is not None and number > self.high:
            raise ConfigError(f"{source}: {value} is too large; the maximum is {self.high}")
        return parsed

    def _converted(self, value: Any) -> Any:
        if isinstance(value, str):
            for word, number in self.words:
                if value.strip().lower() == word:
                    return number
        return CONVERTERS[self.kind](value)


def variable_of(name: str) -> str:
    """Return the environment variable for a name or alias of a setting."""
    return f"{PREFIX}{name.upper()}"


def flag_of(name: str) -> str:
    """Return the command-line flag for a name or alias of a setting."""
    return f"--{name.replace('_', '-')}"
