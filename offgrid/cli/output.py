"""Text for a terminal: its width, and lines that fit into it. A pipe gets unbroken lines."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

import click

from offgrid.terminal import shown

_GAP = "  "
_NARROWEST = 20
"""Columns of a text; a narrower terminal breaks lines itself."""


def width() -> int | None:
    """Return the columns of the terminal; None if the output is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def echo(text: str) -> None:
    """Print a line that may have colours; they are left out if ``NO_COLOR`` is set, or if the
    output is not a terminal."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def echo_wrapped(begin: str, text: str, mark: str = "", mark_width: int = 0) -> None:
    """Print a text. Lines after its first are indented to where the text begins.

    Args:
        begin: printed before the text.
        text: may contain anything; control characters are escaped.
        mark: printed before ``begin``, perhaps with colours.
        mark_width: columns of ``mark``.
    """
    columns = width()
    lines = [shown(text)]
    if columns is not None:
        room = max(columns - mark_width - len(begin) - 1, _NARROWEST)
        lines = textwrap.wrap(lines[0], room, break_on_hyphens=False) or [""]
    indent = "\n" + " " * (mark_width + len(begin))
    echo(f"{mark}{begin}{indent.join(lines)}")


def print_table(rows: Sequence[tuple[str, ...]], numbers: Collection[int] = ()) -> None:
    """Print rows below each other, the first of which has the names of the columns.

    In a terminal, a name in the first column that is too long has a line of its own.

    Args:
        rows: the cells; all rows have the same length.
        numbers: the columns whose cells end at the same place.
    """
    columns = width()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if columns is not None:
        others = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
        least = max(len(row[0]) for row in rows[:1])
        widths[0] = min(widths[0], max(columns - others, least))
    for name, *values in rows:
        if len(name) > widths[0]:
            click.echo(name)
            name = ""
        cells = [
            value.rjust(size) if column in numbers else value.ljust(size)
            for column, (value, size) in enumerate(zip((name, *values), widths, strict=True))
        ]
        click.echo(_GAP.join(cells).rstrip())


def short_number(number: int | None) -> str:
    """Return a number with three digits: 7.50 B, 135 M."""
    if number is None:
        return "?"
    for unit, letter in ((10**12, " T"), (10**9, " B"), (10**6, " M"), (10**3, " k")):
        if number >= unit:
            value = number / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{letter}"
    return str(number)
