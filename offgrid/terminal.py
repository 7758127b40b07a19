"""Untrusted text in a terminal or log: names of files, paths of requests, messages of errors.

A name may contain anything: sequences that rename the window or recolour the screen, line ends that
start a second log line, marks that reverse the direction of the following text. JSON output
contains such a name unchanged; terminals and logs show escapes.
"""

from __future__ import annotations

import json
import logging
import threading
import unicodedata
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

TRACE = 5
"""Level of llama.cpp's own lines: below ``debug``."""
logging.addLevelName(TRACE, "TRACE")


def shown(text: object) -> str:
    """Return a text as one line of visible characters and spaces; escape all others.

    It escapes control and format characters, line ends, spaces other than the plain one, unpaired
    surrogates (bytes that are not UTF-8), and code points that Unicode has not assigned.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else _escaped(char) for char in line)


def shown_text(text: str) -> str:
    """Return a text of several lines without control characters, which could change the terminal.

    Line ends, tabs, and characters that format writing (joiners, marks of direction) stay: they
    belong to texts in many languages.
    """
    if text.isprintable():
        return text
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cs") or char in "\n\t" else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class LogFormatter(logging.Formatter):
    """Writes each message as one line, also those of libraries; indents lines of a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return an indented traceback: lines of an exception's text cannot pass for log lines."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return an indented stack."""
        return _indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """Writes each record as a JSON object on one line. A record may have more ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # escapes all but ASCII


def _indented(text: str) -> str:
    return "\n".join(f"  {shown(line)}" for line in text.split("\n"))


def escape_log() -> None:
    """Make the handlers of the root logger escape their messages; each keeps its format."""
    for handler in logging.getLogger().handlers:
        formatter = LogFormatter()
        vars(formatter).update(vars(handler.formatter or formatter))
        handler.setFormatter(formatter)


def log_failed_threads() -> None:
    """Log the error that ended a thread, rather than print it unescaped."""

    def report(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = args.thread.name if args.thread is not None else "unknown"
        value = args.exc_value or args.exc_type()
        traceback: TracebackType | None = args.exc_traceback
        log.error("thread %s failed", name, exc_info=(args.exc_type, value, traceback))

    threading.excepthook = report
