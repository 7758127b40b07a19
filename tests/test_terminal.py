"""How a terminal or log shows text from untrusted sources."""

from __future__ import annotations

import io
import logging
import threading
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.terminal import LogFormatter, escape_log, log_failed_threads, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("llama 3.1 (Q4)", "llama 3.1 (Q4)"), ("modèle-日本語-😀", "modèle-日本語-😀"), ("", ""),
        ("a\x1b]0;owned\x07", "a\\x1b]0;owned\\x07"), ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b31m", "\\x9b31m"), ("gnp.\u202exe", "gnp.\\u202exe"), ("a\u200bb", "a\\u200bb"),
        ("\ufeffa\u2028b\x00", "\\ufeffa\\u2028b\\x00"), ("\udcff", "\\udcff"),
        ("a\xa0b", "a\\xa0b"),
    ],
)  # fmt: skip
def test_texts_are_shown_escaped(text: str, line: str) -> None:
    assert shown(text) == line


@settings(deadline=None)
@given(st.text(st.characters()))
def test_only_visible_characters_and_spaces_are_shown(text: str) -> None:
    line = shown(text)
    assert all(unicodedata.category(char)[0] not in "CZ" or char == " " for char in line)
    assert shown(line) == line


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(written: io.StringIO) -> logging.Logger:
    """A separate logger with the format of ``offgrid serve``."""
    handler = logging.StreamHandler(written)
    handler.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.Logger("a\nlogger")
    logger.addHandler(handler)
    return logger


FORGED = "x\nERROR offgrid: forged \x1b[2J"


def test_a_message_is_one_line(logger: logging.Logger, written: io.StringIO) -> None:
    logger.warning("GET %s failed", FORGED)
    expected = "WARNING a\\nlogger: GET x\\nERROR offgrid: forged \\x1b[2J failed\n"
    assert written.getvalue() == expected


def test_lines_of_a_traceback_are_indented(logger: logging.Logger, written: io.StringIO) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("failed", stack_info=True)
    first, *lines = written.getvalue().splitlines()
    assert first == "ERROR a\\nlogger: failed"
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert "  ERROR offgrid: forged \\x1b[2J" in lines


def test_an_existing_format_is_kept(written: io.StringIO) -> None:
    """The format of waitress-serve, or of a program that embeds the application."""
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("{levelname}|{message}", style="{"))
    plain = logging.StreamHandler(written)
    root = logging.getLogger()
    saved = root.handlers[:]
    root.handlers[:] = [handler, plain]
    try:
        escape_log()
        escape_log()
        logging.getLogger("offgrid.some").error("a\nb")
    finally:
        root.handlers[:] = saved
    assert written.getvalue() == "ERROR|a\\nb\na\\nb\n"


def test_the_error_of_a_thread_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log_failed_threads()

    def fail(error: type[BaseException]) -> None:
        raise error(FORGED)

    for error in (ValueError, SystemExit):
        thread = threading.Thread(target=fail, args=(error,), name="worker bee")
        thread.start()
        thread.join()
    # Threads of a server of other tests may log something too.
    (record,) = (one for one in caplog.records if one.name == "offgrid.terminal")
    assert record.getMessage() == "thread worker bee failed"
    assert record.exc_info is not None
