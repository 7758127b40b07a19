"""Progress of long commands: a bar in a terminal, plain lines elsewhere, or JSON events.

Each JSON event is one line with ``event``: ``progress`` (``file``, ``phase``, ``done``, ``total``
in bytes), ``file`` (``status``, ``name``, ``reason``, ``code``, ``size``) or ``end``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from offgrid.store.disk import mib
from offgrid.store.imports import Outcome
from offgrid.terminal import shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PAUSE = 0.2
"""Seconds between two JSON events of one file."""
_WIDE = 110
"""Columns of a terminal in which the bar may take all room that is left."""
_FIGURES = 62
"""Columns for the phase, a short bar, and the figures of sizes, speed and time."""
_LINES_PAUSE = 10.0
"""Seconds between two plain lines of one file."""


class Teller:
    """Tells the user what happens.

    Args:
        as_json: print JSON events to standard output and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._draws = not as_json and sys.stdout.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._key: tuple[str, str] = ("", "")
        self._last = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Remove the bar when the command ends, however it ends."""
        try:
            yield
        finally:
            self._stop()

    def _start(self) -> Progress:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            console = Console(highlight=False, markup=False, emoji=False)
            width = console.width
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None if width > _WIDE else 10),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True, expand=width > _WIDE)
            self._bar.start()
            self._key = ("", "")
        return self._bar

    def _stop(self) -> None:
        """Remove the bar; other programs, such as pip, may write to the terminal now."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def progress(self, name: str, phase: str, done: int, total: int) -> None:
        """Tell how far a file is; a :data:`~offgrid.store.progress.Report`."""
        bar = self._start() if self._draws else None
        fresh = self._key != (name, phase)
        self._key = (name, phase)
        if bar is not None:
            if fresh:
                if self._task is not None:
                    bar.remove_task(self._task)
                self._task = bar.add_task(
                    f"{phase} {_shortened(shown(name), bar.console.width - _FIGURES)}", total=total
                )
            if self._task is not None:
                bar.update(self._task, completed=done, total=total)
            return
        pause = _PAUSE if self._json else _LINES_PAUSE
        now = time.monotonic()
        if not fresh and now - self._last < pause and (done < total or not self._json):
            return
        self._last = now
        if self._json:
            self.event(event="progress", file=name, phase=phase, done=done, total=total)
        elif not fresh:
            percent = 100 * done // max(total, 1)
            click.echo(f"{phase} {shown(name)}: {percent} % of {mib(total)}")

    def outcome(self, outcome: Outcome) -> None:
        """Tell what became of a file or model."""
        self.event(
            event="file",
            status=outcome.status,
            name=outcome.name,
            reason=outcome.reason,
            code=outcome.code or None,
            size=outcome.size,
        )
        reason = f": {outcome.reason}" if outcome.reason else ""
        if outcome.status == "identical":
            reason = ": is there already"
        elif outcome.size and outcome.status in ("imported", "exported"):
            reason = f" ({mib(outcome.size)}){reason}"
        self.line(f"{outcome.status:9} {outcome.name}{reason}")

    def line(self, text: str) -> None:
        """Print a line; not with JSON events."""
        if self._json:
            return
        self._stop()
        click.echo(shown(text))

    def event(self, **event: Any) -> None:
        """Print an event; only with JSON events."""
        if self._json:
            click.echo(json.dumps({key: _text(value) for key, value in event.items()}))


def _text(value: Any) -> Any:
    """Return a value for JSON; bytes of a path that are not UTF-8 become U+FFFD."""
    return os.fsencode(value).decode("utf-8", "replace") if isinstance(value, str) else value


def _shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters, but at least 12, with its end."""
    width = max(width, 12)
    if len(text) <= width:
        return text
    begin = width // 2
    return f"{text[:begin]}…{text[begin + 1 - width :]}"
