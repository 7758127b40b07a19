"""Searching many texts at once equals the regular expressions, for every kind of overlap."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_scaffold import ReferenceScaffold
from support import together

from offgrid.sampling import TextSet

MARK = "\ufdd0"
LETTERS = st.sampled_from(["ab", "a\u00e9", "<|>", "\u00e9\u00e8\U0001f600", "a\ud800\u00e9"])
"""Few letters, so that texts overlap; of one to four bytes, and an unpaired surrogate."""


def control_and_text(most: int = 40) -> st.SearchStrategy[tuple[list[str], str]]:
    def of(letters: str) -> st.SearchStrategy[tuple[list[str], str]]:
        control = st.lists(st.text(letters, min_size=1, max_size=6), max_size=6)
        return st.tuples(control, st.text(letters, max_size=most))

    return LETTERS.flatmap(of)


@settings(max_examples=130, deadline=None)
@given(control_and_text())
@example((["<|a|>", "a"], "<|a|><|a|>"))
@example((["aaaa", "aa", "a"], "aaaaaaa"))
@example((["abab", "ba"], "ababab"))
@example((["xay", "zabq"], "a"))
@example(([], "<"))
def test_marks_are_those_of_the_regular_expressions(case: tuple[list[str], str]) -> None:
    compare_marks(*case)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(control_and_text())
def test_marks_are_those_of_the_regular_expressions_at_length(case: tuple[list[str], str]) -> None:
    """The default run covers 130 examples."""
    compare_marks(*case)


def compare_marks(control: list[str], text: str) -> None:
    texts, reference = TextSet(control), ReferenceScaffold(control)
    marked, whole = texts.mark(text, MARK)
    assert (marked, whole) == reference.mark(text, MARK)
    if marked == text:
        assert marked is text
    # The marked text contains no control text any more, alone or next to other text.
    for around in ("", *control):
        for cut in range(len(around) + 1):
            rendered = around[:cut] + marked + around[cut:]
            pieces = texts.split(rendered, MARK, 100)
            assert pieces == reference.split(rendered, MARK)


@settings(max_examples=130, deadline=None)
@given(control_and_text(), st.lists(st.integers(0, 40), max_size=6))
def test_pieces_are_those_of_the_regular_expressions(
    case: tuple[list[str], str], marks: list[int]
) -> None:
    compare_pieces(*case, marks)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(control_and_text(), st.lists(st.integers(0, 40), max_size=6))
def test_pieces_are_those_of_the_regular_expressions_at_length(
    case: tuple[list[str], str], marks: list[int]
) -> None:
    """The default run covers 130 examples."""
    compare_pieces(*case, marks)


def compare_pieces(control: list[str], text: str, marks: list[int]) -> None:
    for place in marks:
        text = text[:place] + MARK + text[place:]
    pieces = TextSet(control).split(text, MARK, 100)
    assert pieces == ReferenceScaffold(control).split(text, MARK)
    assert pieces is not None
    special = sum(special for _, special in pieces)
    assert TextSet(control).split(text, MARK, special) == pieces
    if special:
        assert TextSet(control).split(text, MARK, special - 1) is None


def test_a_long_text_is_searched_as_a_short_one() -> None:
    """A text longer than one piece of the search, with matches across the borders."""
    control = ["<|end|>", "<", "end|>x", "|>|"]
    text = "<|end|>x|>|<" * 20_000
    texts, reference = TextSet(control), ReferenceScaffold(control)
    assert texts.mark(text, MARK) == reference.mark(text, MARK)
    assert texts.split(text, MARK, 1 << 20) == reference.split(text, MARK)


def test_thousands_of_texts_are_found_by_several_threads() -> None:
    control = [f"<unused{n}>" for n in range(6400)]
    texts, reference = TextSet(control), ReferenceScaffold(control)
    text = "".join(f"x<unused{n}>{n}" for n in range(0, 7000, 500)) + "<unused9"
    expected = reference.mark(text, MARK)
    assert together([lambda: texts.mark(text, MARK)] * 8) == [expected] * 8
    assert texts.memory < 2 << 20


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", ""], "empty"),
        (["a" * 257], "257 bytes"),
        ([f"{n:0256}" for n in range(16400)], "4214800 bytes"),
    ],
    ids=["empty", "long", "many"],
)
def test_texts_that_no_vocabulary_contains_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TextSet(texts)
