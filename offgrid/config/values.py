"""Conversion of what people write in flags, variables and files into values of settings.

Each kind of setting has a function that takes a text, or a value that a TOML file already has as
its type, and raises ``ValueError``, ``TypeError`` or ``OverflowError`` if it does not fit.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOREVER = math.inf
"""A time without an end, in seconds."""
_AGES = 1e9
"""Seconds. A longer lifetime (30 years) has no end either: no calendar has a date for some."""
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
_COUNT = re.compile(r"([+-]?[\d_.]+)\s*([kmg]?)", re.IGNORECASE | re.ASCII)
_COUNT_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"([+-]?[\d_.]+)\s*(?:([kmgt])(i?b)?)?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = "kmgt"
_MIB = 1 << 20
_DURATION = re.compile(r"([\d.]+)\s*(ms|[smhd])", re.IGNORECASE | re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def to_int(value: Any) -> int:
    """Return a whole number."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def to_count(value: Any) -> int:
    """Return a whole number; ``8k`` is 8,192 and ``1M`` is 1,048,576, as in names of models."""
    if not isinstance(value, str):
        return to_int(value)
    return _whole(_COUNT.fullmatch(value.strip()), lambda unit: _COUNT_UNITS[unit])


def to_mib(value: Any) -> int:
    """Return a size in MiB. A plain number is one already. ``6GiB`` and ``6G`` are 6,144; ``6GB``
    counts in powers of 1,000 and is rounded down to 5,722."""
    if not isinstance(value, str):
        return to_int(value)
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError
    number, unit, ending = found.groups()
    if unit is None:
        return to_int(_number(number))
    base = 1000 if (ending or "").lower() == "b" else 1024
    size = _number(number) * float(base) ** (_SIZE_UNITS.index(unit.lower()) + 1)
    if 0 < size < _MIB:
        raise ValueError
    return math.floor(size / _MIB)


def to_seconds(value: Any) -> float:
    """Return seconds. A plain number is seconds; ``90s``, ``5m``, ``1h30m``, ``2d`` and ``500ms``
    have units."""
    if isinstance(value, str) and _DURATION.search(value):
        text = value.strip()
        if _DURATION.sub("", text).strip():
            raise ValueError
        parts = _DURATION.findall(text)
        return sum(_number(number) * _SECONDS[unit.lower()] for number, unit in parts)
    return to_float(value)


def to_lifetime(value: Any) -> float:
    """Return seconds as :func:`to_seconds` does; ``forever``, and every negative time as in Ollama,
    is :data:`FOREVER`."""
    text = value.strip().lower() if isinstance(value, str) else value
    if text == "forever":
        return FOREVER
    negative = isinstance(text, str) and text.startswith("-")
    seconds = to_seconds(text[1:] if negative else text)
    return FOREVER if negative or seconds < 0 or seconds > _AGES else seconds


def shown_lifetime(seconds: float) -> str:
    """Return a time as :func:`to_lifetime` reads it: ``5m``, ``1h30m``, ``0.5s``, ``forever``."""
    if seconds == FOREVER:
        return "forever"
    if seconds != int(seconds) or seconds == 0:
        return f"{seconds:g}s"
    left, text = int(seconds), ""
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_SECONDS[unit]))
        text += f"{count}{unit}" if count else ""
    return text


def to_float(value: Any) -> float:
    """Return a finite number."""
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def to_bool(value: Any) -> bool:
    """Return a truth value."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def to_str(value: Any) -> str:
    """Return a text without spaces around it."""
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def to_path(value: Any) -> Path:
    """Return a path; ``~`` is the home."""
    return Path(to_str(value) if not isinstance(value, Path) else value).expanduser()


def in_folder(folder: Path | str, text: str) -> str:
    """Return a path that a file in this folder names; ``~`` stays."""
    return text if text.lstrip().startswith("~") else os.path.join(folder, text.strip())


def to_list(value: Any) -> tuple[str, ...]:
    """Return the items of a list, or of a text with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise TypeError
    return tuple(word for word in (to_str(item) for item in items) if word)


def to_map(value: Any) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a table, or of a text with ``name=value`` and commas."""
    if isinstance(value, Mapping):
        pairs = [(to_str(name), to_str(meant)) for name, meant in value.items()]
    elif isinstance(value, (list, tuple)):  # pairs, as this function returns them
        pairs = [(to_str(name), to_str(meant)) for name, meant in value]
    else:
        words = [word.partition("=") for word in to_list(value)]
        pairs = [(name.strip(), meant.strip()) for name, _, meant in words]
    if not all(name and meant for name, meant in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError
    return tuple(pairs)


def _number(text: str) -> float:
    return to_float(text)


def _whole(found: re.Match[str] | None, factor: Callable[[str], int]) -> int:
    """Return number times unit, which must be whole."""
    if found is None:
        raise ValueError
    number, unit = found.groups()
    if not unit:
        return int(number)  # exact, however many digits it has
    return to_int(_number(number) * factor(unit.lower()))


CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int": to_int,
    "count": to_count,
    "mib": to_mib,
    "duration": to_seconds,
    "lifetime": to_lifetime,
    "float": to_float,
    "bool": to_bool,
    "str": to_str,
    "path": to_path,
    "list": to_list,
    "map": to_map,
}
"""Kind of a setting -> the function that makes its value."""
KIND_WORDS = {
    "int": "a whole number",
    "count": "a whole number (such as 8192 or 8k)",
    "mib": "a size in MiB (such as 512 or 6GiB)",
    "duration": "a time (such as 90, 90s, 5m or 1h30m; a plain number is seconds)",
    "lifetime": "a time (such as 90, 5m or 1h30m; 0 for none, -1 or forever for no end)",
    "float": "a number",
    "bool": "true or false (1, t, true, yes, on; 0, f, false, no, off)",
    "str": "text",
    "path": "a path",
    "list": "a comma-separated list",
    "map": "a comma-separated list of name=value, each name once",
}
"""Kind of a setting -> what its values are, for messages."""
