"""Text of others, in a terminal or a log: names of files, paths of requests, messages of errors.

A name may hold anything: sequences that rename the window or recolour the screen, line ends that
make a second log line, marks that turn the direction of what follows. JSON says such a name as it
is; people see its escapes.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)


def shown(text: object) -> str:
    """Return a text as one line of visible characters and spaces, the others as escapes.

    Escaped are control and format characters, line ends, spaces that are no plain ones, halves of
    surrogate pairs (bytes that are not UTF-8), and what Unicode has not assigned.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


class LogFormatter(logging.Formatter):
    """Makes one line of each message, whoever logs it; lines of a traceback are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback. An exception's own lines cannot be taken for log lines."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return a stack in the same way."""
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(f"  {shown(line)}" for line in text.split("\n"))


def escape_log() -> None:
    """Let the handlers that a program has set up escape what they write, in their own formats."""
    for handler in logging.getLogger().handlers:
        formatter = LogFormatter()
        vars(formatter).update(vars(handler.formatter or formatter))
        handler.setFormatter(formatter)


def log_failed_threads() -> None:
    """Log the error that ended a thread, in the place of writing it as it is."""

    def report(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = args.thread.name if args.thread is not None else "unknown"
        value = args.exc_value or args.exc_type()
        traceback: TracebackType | None = args.exc_traceback
        log.error("thread %s failed", name, exc_info=(args.exc_type, value, traceback))

    threading.excepthook = report
