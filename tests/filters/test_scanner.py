"""The scanner of content filters against its definition: ``re`` at every place of the text."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offgrid.filters.folding import fold
from offgrid.filters.program import Term, compile_terms
from offgrid.sampling import Filter, FilterStream

LETTERS = "abkKAB ſßéÉ_1.\n😀"
TEXTS = st.text(LETTERS, max_size=24)
ATOMS = st.sampled_from(
    ["a", "b", "k", "é", "ß", "s", ".", r"\w", r"\d", r"\s", r"\W", "[ab]", "[^a]", r"[^\w]",
     r"[\s1]", r"\.", r"\u00e9", "[a-k]", r"\x61"]
)  # fmt: skip
PATTERNS = st.recursive(
    ATOMS | st.sampled_from([r"\b", r"\B"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "{2}", "{0,2}", "{1,3}", "{,2}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=5,
).filter(lambda source: re.match(f"(?:{source})\\Z", "") is None)
TERMS = st.lists(
    st.one_of(
        st.text(LETTERS, min_size=1, max_size=4).map(Term),
        st.builds(lambda text, case: Term(text, True, case), PATTERNS, st.booleans()),
    ),
    min_size=1,
    max_size=4,
)


def ends_of(term: Term, text: str, begin: int) -> set[int]:
    """Return where matches of a term end that begin at a place."""
    if not term.is_pattern:
        end = begin + len(term.text)
        return {end} if fold(text[begin:end]) == fold(term.text) else set()
    found = set()
    flags = re.IGNORECASE if term.any_case else 0
    for end in range(begin + 1, len(text) + 1):
        rest = f"(?=(?s:.{{{len(text) - end}}})\\Z)"
        if re.compile(f"(?:{term.text}){rest}", flags).match(text, begin):
            found.add(end)
    return found


def waits(term: Term, text: str, begin: int) -> bool:
    """Whether it depends on the next character if a match ends at the end of a text."""
    return any(len(text) not in ends_of(term, text + more, begin) for more in ("a", " "))


def begin_of(terms: list[Term], text: str, sent: int = 0) -> int | None:
    """The definition: where the first match begins that ends after ``sent`` characters; None if
    there is none. The earliest end wins; among matches with the same end those that need not wait
    for the next character, then the longest."""
    matches = [
        (end, waits(term, text[:end], begin), begin) for term in terms
        for begin in range(len(text)) for end in ends_of(term, text, begin) if end > sent
    ]  # fmt: skip
    return min(matches)[-1] if matches else None


def kept(terms: list[Term], text: str) -> tuple[str, bool]:
    """Return the text before the first match, and whether there is one."""
    begin = begin_of(terms, text)
    return text[:begin], begin is not None


def compiled(terms: list[Term]) -> Filter:
    found = compile_terms(terms, []).answers.filter()
    assert found is not None
    return found


def streamed(found: Filter, pieces: list[str]) -> tuple[str, bool]:
    """Feed pieces; check after each that what was sent is never taken back."""
    stream = FilterStream(found)
    sent = "".join([stream.feed(piece) for piece in pieces] + [stream.flush()])
    assert stream.finished
    return sent, stream.matched


def is_valid(term: Term) -> bool:
    """Whether ``(?:...)?`` around a boundary, which ``re`` allows, is not in a pattern, and the
    pattern has a character at all: ``\\b\\B`` has none, and matches nothing."""
    try:
        return compile_terms([term], []).answers.filter() is not None
    except ValueError:
        return False


@given(TERMS, TEXTS, st.lists(st.integers(0, 24), max_size=6))
@example([Term("ab"), Term("abab")], "aabab", [2, 3])
@example([Term(r"\ba\b", True)], "aa a", [1, 2, 3])
@example([Term("b"), Term(r"ab\b", True)], "xab ", [])
@example([Term(r"k", True, True)], "x\u212a", [1])
@example([Term("k")], "x\u212a", [1])
def test_every_split_gives_the_text_of_the_definition(
    terms: list[Term], text: str, cuts: list[int]
) -> None:
    """B3, B4: neither a part of a phrase is sent, nor is text lost or sent twice."""
    terms = [term for term in terms if is_valid(term)]
    if not terms:
        return
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    expected = kept(terms, text)
    found = compiled(terms)
    assert streamed(found, pieces) == expected
    assert streamed(found, list(text)) == expected
    assert found.found(text) == expected[1]


@given(TERMS, TEXTS)
def test_only_text_that_may_become_a_match_is_held_back(terms: list[Term], text: str) -> None:
    """What is held back begins a phrase, or may begin a match of a pattern."""
    phrases = [term for term in terms if not term.is_pattern]
    if not phrases:
        return
    found, folded = compiled(phrases), [fold(term.text) for term in phrases]
    stream, sent = FilterStream(found), ""
    for at, character in enumerate(text):
        sent += stream.feed(character)
        if stream.finished:
            return
        held = fold(text[: at + 1])[len(sent) :]
        longest = max(
            (size for phrase in folded for size in range(len(phrase))
             if fold(text[: at + 1]).endswith(phrase[:size])), default=0,
        )  # fmt: skip
        assert len(held) == longest


def test_a_match_that_begins_in_text_that_was_sent_before_ends_the_stream() -> None:
    found = compiled([Term("bad word"), Term("x")])
    stream = FilterStream(found)
    stream.prime("x and ba")
    assert [stream.feed("d w"), stream.feed("ord"), stream.matched] == ["", "", True]
    stream = FilterStream(found)
    stream.prime("x and ba")
    assert stream.feed("nana") == "nana"


@given(TERMS, TEXTS, st.integers(0, 24))
@example([Term(r"\bfoo\b", True)], "say foo bar", 7)
@example([Term("ab"), Term("abcd")], "xabcd", 3)
@example([Term("foo"), Term(r"x?\b ", True)], "foo ", 3)
def test_matches_that_end_in_text_that_was_sent_before_do_not_count(
    terms: list[Term], text: str, place: int
) -> None:
    """Not even if only the next character proves that they end there."""
    terms = [term for term in terms if is_valid(term)]
    if not terms:
        return
    before, after = text[:place], text[place:]
    stream = FilterStream(compiled(terms))
    stream.prime(before)
    sent = "".join([*map(stream.feed, after), stream.flush()])
    begin = begin_of(terms, text, len(before))
    expected = after if begin is None else text[len(before) : max(begin, len(before))]
    assert (sent, stream.matched) == (expected, begin is not None)


def test_a_pattern_with_many_states_takes_time_in_proportion_to_the_text() -> None:
    """C9, C10: no pattern of the file is tried again and again at the same place."""
    found = compiled([Term(r"(a{0,9}){0,9}b", True), Term(r"(a|aa){1,30}b", True)])
    assert not found.found("a" * 5000)
    assert found.found("a" * 2000 + "b")


@pytest.mark.parametrize("text", ["\ud800", "a\ud800b", "\U0010ffff", "\0"])
def test_odd_characters_are_passed_on(text: str) -> None:
    assert streamed(compiled([Term("zz"), Term(r"\w{3}z", True)]), list(text)) == (text, False)
