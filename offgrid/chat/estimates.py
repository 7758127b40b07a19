"""Estimates of the work of a single operation of a template.

Nothing can stop an operation once it runs, so its work is charged before. An estimate is the number
of characters that the operation reads and creates at most; counting may stop at ``limit``. What
cannot be estimated is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MappingView
from typing import Any, cast

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

from offgrid.chat.budget import ITEM

_MAX_NUMBER = 1_000_000
_MAX_DIGITS = 300
"""Decimal places of ``round``: it computes a power of ten, and no float has more."""
AT_ONCE = 16
"""Characters that a search from the end, or a set of characters, compares in the time of one step's
character."""
_VISIT = 128
"""Characters charged for each item when the item itself is read."""
# Functions whose result can be as long as one argument times the others.
_PRODUCTS = frozenset(["expandtabs", "indent", "join", "replace", "tojson"])
# Functions that may compare every character of a text with all of an argument.
_SEARCHES = frozenset("lstrip rfind rindex rpartition rsplit rstrip strip trim".split())
# How many characters these filters create from one, at most.
ESCAPES = {"e": 6, "escape": 6, "forceescape": 6, "tojson": 12, "urlencode": 12}
# Charge per character for functions that take longer per character than others.
_SLOW = {
    "capitalize": 3, "casefold": 3, "lower": 3, "swapcase": 3, "title": 16,
    "upper": 3, "wordcount": 16,
}  # fmt: skip
# The line ends of str.splitlines.
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# Widths and precisions of four digits and more, and widths given by an argument. No character is
# tried from more than one beginning. A name that contains a percent sign could hide a width.
WIDE_PERCENT = re.compile(r"%(\([^)%]*\))?[^a-zA-Z%]*(\*|\d{4})|%\([^)%]*%")
WIDE_BRACES = re.compile(r"\{[^{}:]*:[^{}]*(\{|\d{4})")
_MAX_WIDTH = 1000


def flat_size(value: Any) -> int:
    """Count the characters of a text, or the items of a list, but not what the items contain."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple, dict)):
        return ITEM * len(value)
    return 0


def deep_size(value: Any, limit: int) -> int:
    """Count the characters of a value and all its items, each as often as it occurs.

    A few lists that contain each other many times become an enormous text when they are written or
    compared. Counting stops beyond ``limit``.
    """
    total = 0
    stack: list[Any] = [value]
    while stack and total <= limit:
        item = stack.pop()
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, (list, tuple, dict, MappingView)):
            total += _VISIT * len(item)
            if total <= limit:
                stack += cast(Iterable[Any], item)
                if isinstance(item, dict):
                    stack += item.values()
        elif isinstance(item, Namespace):
            raise SecurityError("a namespace cannot be converted to text")
    return total


def deep_sizes(values: list[Any], limit: int) -> int:
    """Count the characters of several values: see :func:`deep_size`."""
    return sum(deep_size(value, limit) for value in values)


def operation_size(name: str, values: list[Any], limit: int) -> int:
    """Estimate a filter or a string's method; ``values`` are the text and the arguments."""
    numbers = sum(abs(x) for x in values[1:] if isinstance(x, int))
    first = deep_sizes(values[:1], limit) * ESCAPES.get(name, _SLOW.get(name, 1))
    if name in ("split", "rsplit", "splitlines"):
        first += ITEM * _pieces(name, values)
    others = deep_sizes(values[1:], limit) + int(numbers)
    if name in _SEARCHES:
        first *= 1 + others // AT_ONCE
    return first * max(1, others) if name in _PRODUCTS else first + others


def _pieces(name: str, values: list[Any]) -> int:
    """Return the largest number of pieces that a string (or bytes) can be split into."""
    text, separator = values[0], values[1] if len(values) > 1 else None
    if name == "splitlines":
        ends = _LINE_ENDS if isinstance(text, str) else (b"\n", b"\r")
        return 1 + sum(int(text.count(end)) for end in ends)
    if isinstance(separator, type(text)) and separator:
        return 1 + int(text.count(separator))
    return 1 + len(text) // 2


def format_size(format: Any, values: list[Any], wide: re.Pattern[str], limit: int) -> int:
    """Estimate the formatting of values; ``wide`` finds widths that are refused.

    Raises:
        SecurityError: a width or precision is too large.
    """
    text = format.decode("latin-1") if isinstance(format, bytes) else str(format)
    if wide.search(text):
        raise SecurityError("a width or precision of a format is too large")
    places = text.count("%" if wide is WIDE_PERCENT else "{")
    return len(text) + places * (deep_sizes(values, limit) + 2 * _MAX_WIDTH)


def check_numbers(values: list[Any]) -> None:
    """Refuse large numbers: a text can become that long."""
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise SecurityError("a number is too large here")


def check_digits(values: list[Any]) -> None:
    """Refuse decimal places that take long to compute."""
    if any(isinstance(value, int) and abs(value) > _MAX_DIGITS for value in values):
        raise SecurityError("the number of decimal places is too large")


def check_codec(name: str, values: list[Any]) -> None:
    """Refuse encodings other than UTF-8: some take time quadratic in the length of the text."""
    if name in ("encode", "decode"):
        for value in values[:1]:
            if str(value).lower() not in ("utf-8", "utf8"):
                raise SecurityError(f"{name} supports only UTF-8")
