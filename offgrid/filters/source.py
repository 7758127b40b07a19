"""Reads a filter file: one phrase or pattern in a line.

::

    # a comment
    a phrase
    /a (regular|irregular) expression/i
    [answers]
    only answers are searched for what follows, up to the next section
    [prompts]
    only prompts
    [both]
    both, as at the beginning of the file
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from offgrid.errors import ConfigError
from offgrid.filters.automaton import Automaton
from offgrid.filters.folding import fold
from offgrid.filters.pattern import PatternError, parse_pattern
from offgrid.filters.program import MAX_PHRASE, MAX_PHRASES, Term

MAX_FILE = 16 << 20
"""Bytes."""
_SECTIONS = {
    "[both]": ("answers", "prompts"), "[answers]": ("answers",), "[prompts]": ("prompts",),
}  # fmt: skip


@dataclass
class Terms:
    """The terms of a filter file, for answers and for prompts."""

    answers: list[Term] = field(default_factory=list)
    prompts: list[Term] = field(default_factory=list)


class FilterAbsent(ConfigError):
    """There is no such filter file."""


def read_filter(path: Path) -> Terms:
    """Read a filter file.

    Raises:
        FilterAbsent: there is none.
        ConfigError: it cannot be read, or a line of it is wrong; the message names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError as ex:
        raise FilterAbsent(f"{path}: the filter file cannot be read: {ex.strerror}.") from None
    except OSError as ex:
        raise ConfigError(f"{path}: the filter file cannot be read: {ex.strerror or ex}.") from None
    if len(data) > MAX_FILE:
        raise ConfigError(
            f"{path}: the filter file has more than {MAX_FILE >> 20} MiB; shorten it."
        )
    terms, automaton, size = Terms(), Automaton(), 0
    at: tuple[str, ...] = _SECTIONS["[both]"]
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
            if not line or line.startswith("#"):
                continue
            if line in _SECTIONS:
                at = _SECTIONS[line]
                continue
            term = parse_line(line)
            size += len(term.text.encode())
            if size > MAX_PHRASES // 2:
                raise PatternError("the file is too large up to here; shorten it")
            if term.is_pattern:
                automaton.add(parse_pattern(term.text, any_case=term.any_case))
        except UnicodeDecodeError:
            raise ConfigError(
                f"{path}, line {number}: it is not UTF-8; save the file as UTF-8."
            ) from None
        except PatternError as ex:
            raise ConfigError(f"{path}, line {number}: {ex}.") from None
        for name in at:
            getattr(terms, name).append(term)
    try:
        automaton.tables()
    except PatternError as ex:
        raise ConfigError(f"{path}: {ex}.") from None
    return terms


def parse_line(line: str) -> Term:
    """Return the term of a line that is neither empty nor a comment nor a section.

    Raises:
        PatternError: a phrase is too long, or a pattern is not closed or has an unknown flag.
    """
    if not line.startswith("/"):
        if max(len(line.encode()), len(fold(line).encode())) > MAX_PHRASE:
            raise PatternError(f"the phrase has more than {MAX_PHRASE} bytes; shorten it")
        return Term(line)
    source, closed, flags = line[1:].rpartition("/")
    if not closed or not source:
        raise PatternError(
            "a regular expression ends with / and perhaps i, as in /bad word/i; to look for a text "
            "that begins with a slash, write /\\/text/"
        )
    if flags not in ("", "i"):
        raise PatternError(f"the flag {flags!r} is not supported; only i is, for any case")
    return Term(source, True, flags == "i")
