"""The limits of an answer that act at the ends of its lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.worker.lines import LineLimits


def limited(pieces: list[str], indent: int) -> tuple[str, bool]:
    """Feed pieces until the answer ends; return its text, and whether it ended."""
    lines = LineLimits(indent, 0)
    kept = ""
    for piece in pieces:
        text, cut = lines.advance(piece)
        kept += text
        if cut:
            return kept, True
    return kept, False


def defined(text: str, indent: int) -> tuple[str, bool]:
    """The definition: the answer ends in the first line after a line end that has another character
    than a space or tab before it has so many of them."""
    first, *others = text.split("\n")
    kept = first
    for number, line in enumerate(others, 1):
        blank = len(line) - len(line.lstrip(" \t"))
        ends = blank < len(line) or number < len(others)
        if blank < indent and ends:
            return f"{kept}\n{line[:blank]}", True
        kept += f"\n{line}"
    return kept, False


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\n    b\n    c", None),
        ("a\n    b\nc", "a\n    b\n"),
        ("a\n  b", "a\n  "),
        ("a\n\n    b", "a\n"),
        ("a\n\t\t\t\tb", None),
        ("no line end", None),
        ("a\n    b\n", None),
    ],
)
def test_a_line_that_is_not_indented_enough_ends_the_answer(text: str, kept: str | None) -> None:
    assert limited([text], 4) == (text if kept is None else kept, kept is not None)


@given(st.lists(st.text(alphabet="a \t\n", max_size=6)), st.integers(0, 3))
def test_it_is_the_definition_for_every_split(pieces: list[str], indent: int) -> None:
    text = "".join(pieces)
    expected = defined(text, indent) if indent else (text, False)
    assert limited(pieces, indent) == expected


def test_an_answer_whose_time_is_over_ends_with_a_line() -> None:
    lines = LineLimits(0, 100)
    assert not lines.is_over("a\n", 100.0)
    assert not lines.is_over("a", 101.0)
    assert lines.is_over("a\nb", 101.0)
    assert not LineLimits(2, 0).is_over("a\n", 1e9)
