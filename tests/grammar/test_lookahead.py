"""Look-aheads of patterns: the patterns without them match the same texts."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.grammar.lookahead import (
    MAX_LOOK_AHEADS,
    found_in,
    has_look_ahead,
    lark_terminal,
    one_pattern,
    patterns_without_look_ahead,
)
from offgrid.grammar.regular import MAX_TEXT, Unwritable
from offgrid.grammar.schema import parse_schema

EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"


def in_python(pattern: str) -> str:
    """A pattern of ECMA-262 in Python's syntax, where ``$`` also stands before a last line feed."""
    pattern = re.sub(r"\\u\{([0-9a-f]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", pattern)
    pattern = pattern.replace("[^]", "[\\s\\S]").replace("[]", "[^\\s\\S]")
    return pattern.replace("(?<", "(?P<").replace("$", "\\Z")


def found(pattern: str, text: str) -> bool:
    """Whether Python finds a pattern."""
    return re.search(in_python(pattern), text, re.ASCII) is not None


def agree(pattern: str, texts: list[str]) -> None:
    """All written patterns together, and the single one, find what Python finds."""
    several = patterns_without_look_ahead(pattern)
    single = one_pattern(pattern)
    for text, matched in zip(texts, map(found_in(pattern), texts), strict=True):
        wanted = found(pattern, text)
        assert matched == wanted, (pattern, text)
        assert all(found(one, text) for one in several) == wanted, (pattern, text)
        assert found(single, text) == wanted, (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (EMAIL, ["a@b.co", ".a@b.co", "a..b@c.de", "a.b@c.de", "a.@b.co", "a@b..co", "a@b.c",
                 "a'+@b-c.example", "", "@b.co", "a@b.co\n", "a@b.co..", "x.y.z@q.rs"]),
        (DECIMAL, ["1", "-1.5", "+.5", "5.", "", "-", ".", "+-", "-.", "0007", "1e5", "1.2.3",
                   "\u0663"]),
        # pydantic's of limited length: its first alternative has no end
        ("^(?!^[-+.]*$)[+-]?0*(?:\\d{0,6}|(?=[\\d.]{1,9}0*$)\\d{0,6}\\.\\d{0,2}0*$)",
         ["", "-", "1.25", "1.255", "x", "+1"]),
        ("^(?!x-)", ["", "x", "x-", "x-a", "ax-", "-x"]),
        ("^(?=.*[A-Z])(?=.*\\d).{4,}$", ["Ab1d", "ab1d", "Abcd", "A1", "AAA1\n", "A\n12"]),
        ("^(?!(?:con|nul)$)[a-z]+$", ["con", "cons", "nul", "nu", "", "conn"]),
        ("^(?!.*(?:foo|bar))", ["foo", "xbar", "fo", "fobar", "ba\nr", "ba", "\nfoo"]),
        ("(?!ab)a.", ["ab", "ac", "abac", "a", "xxaa", "aab", "a\n"]),
        ("(?=a$)", ["a", "ba", "ab", ""]),
        ("(?=a)(?!ab)", ["ab", "a", "aba", "b"]),
        ("^(?!a)b|c", ["b", "ab", "ac", "a", "c"]),
        ("^(?!a|b$)", ["a", "b", "bc", "", "c"]),
        ("^(?![])b", ["b", "a"]),
        ("^(?!(?!a)b)", ["a", "b", "c", ""]),
        ("^(?![^])$", ["", "a"]),
        ("a(?!b)", ["a", "ab", "aba", "b", "abab"]),
        ("^(?!a)b(?=c)..?$", ["bc", "bcd", "bd", "ac", "bcde"]),
        ("^(?:x|(?=a.$)[ab]{2,3})$", ["x", "ab", "aa", "ba", "aab", "a"]),
        ("^(?!\\u0061|\\x62|\\u{63})\\S", ["a", "b", "c", "d", " ", ""]),
        ("^(?!(?<n>a))(?:b|a?)$", ["", "a", "b"]),
        ("^(?=a?$)", ["", "a", "aa"]),
        ("^(?!a{2,3}$)a*$", ["a", "aa", "aaa", "aaaa"]),
    ],
)  # fmt: skip
def test_patterns_against_python(pattern: str, texts: list[str]) -> None:
    assert has_look_ahead(pattern)
    agree(pattern, texts)


def inner(depth: int) -> st.SearchStrategy[str]:
    """Patterns of a small alphabet, without anchors."""
    leaf = st.sampled_from(
        ["a", "b", ".", "-", "\\.", "[ab]", "[^a]", "[^-b]", "\\n", "[\\w.]", ""]
    )
    if not depth:
        return leaf
    part = inner(depth - 1)
    return st.one_of(
        leaf,
        st.builds("(?:{}|{})".format, part, part),
        st.builds("{}{}".format, part, part),
        st.builds("(?:{}){}".format, part, st.sampled_from(["*", "?", "+", "{2}", "{1,2}", "*?"])),
    )


TEXTS = ["".join(letters) for length in range(5) for letters in product("ab.\n", repeat=length)]


@pytest.mark.slow
@given(
    begin=st.sampled_from(["^", ""]),
    looks=st.lists(
        st.builds(
            "(?{}{}{}{})".format,
            st.sampled_from("!!="),
            st.sampled_from(["", "^", ".*"]),
            inner(2),
            st.sampled_from(["", "$"]),
        ),
        min_size=1,
        max_size=2,
    ),
    body=inner(2),
    end=st.sampled_from(["$", ""]),
)
def test_random_patterns_against_python(begin: str, looks: list[str], body: str, end: str) -> None:
    pattern = begin + "".join(looks) + body + end
    try:
        agree(pattern, TEXTS)
    except Unwritable as ex:
        if str(ex).startswith("matches nothing"):
            assert not any(found(pattern, text) for text in TEXTS), pattern
        elif "too complex" not in str(ex):
            raise


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^(?!a\\b)", "\\b, which is not supported"),
        ("^(?!(a)\\1)", "\\1, which is not supported"),
        ("^(?!\\p{L})", "\\p, which is not supported"),
        ("^(?!(?<=a)b)", "(?<=, which is not supported"),
        ("^(?!(?i)a)", "(?i), which is not supported"),
        ("^(?!a", "unmatched ("),
        ("^(?!a{1,999})", "counts beyond 200"),
        ("^(?!(?:^a|b)*c)", "repeats a group with an anchor"),
        ("^(?!a^b)", "has ^ after its beginning"),
        ("^(?!a**)", "repeats a repetition"),
        ("^(?!*a)", "nothing before *"),
        ("^(?!a{)", "write \\{"),
        ("^(?![b-a])", "invalid range"),
        ("^(?!\\ud83d)", "a surrogate"),
        ("^(?!" + "a" * 700 + ")", "at most 600 characters"),
        ("^(?!.*a.{9}b)", "too many states"),
        ("^(?!" + "(?:" * 40 + ")" * 40 + ")", "nested too deeply"),
        ("^" + "(?!a)" * (MAX_LOOK_AHEADS + 1), "more than 8 look-aheads"),
        ("(?!a)(?=a)", "matches nothing"),
    ],
)
def test_patterns_that_cannot_be_written(pattern: str, words: str) -> None:
    with pytest.raises(Unwritable, match=re.escape(words)):
        patterns_without_look_ahead(pattern)


@given(st.text(alphabet="(?!=)^$ab|*{1,}[]\\", max_size=40))
def test_any_text_is_written_or_refused(text: str) -> None:
    for convert in (patterns_without_look_ahead, lark_terminal):
        try:
            written = convert("^(?!" + text)
        except Unwritable:
            continue
        assert sum(map(len, written)) < 3 * MAX_TEXT


def test_schemas_with_look_aheads_combine_patterns() -> None:
    first, *more = patterns_without_look_ahead(EMAIL)
    schema = parse_schema('{"allOf": [{"minLength": 9}], "pattern": "^(?!\\\\.)(?!a)x"}')
    assert schema["pattern"] == "^x"
    assert schema["allOf"][0] == {"minLength": 9}
    assert len(schema["allOf"]) == 3
    assert (len(more), first[:2]) == (2, "^(")


@pytest.mark.parametrize("pattern", [r"^(?=(?=b)[bc])b", r"^(?=(?!bd)b)b.", r"^(?=^(?!a)b)bc$"])
def test_a_look_ahead_in_another_one(pattern: str) -> None:
    written = patterns_without_look_ahead(pattern)
    assert not any(map(has_look_ahead, written))
    agree(pattern, ["", "a", "b", "c", "bc", "bd", "be", "bcd"])


def test_brackets_that_begin_no_look_ahead() -> None:
    """Such patterns have none of the limits of those with look-aheads."""
    for pattern in (r"^\(?=\bx", r"^[(?=]{1,500}$", r"^[(?!)]\(?!$"):
        assert not has_look_ahead(pattern)
        assert parse_schema(json.dumps({"pattern": pattern})).keys() == {"pattern"}
    assert has_look_ahead(r"\\(?=a)")


def test_terminals_of_lark() -> None:
    assert lark_terminal(DECIMAL) == r"/(?:[+-]?0*\d*\.?\d*$)/ & ~(/(?:[-+.]*)/)"
    written = lark_terminal("^(?=a/|b\\$)c|d")
    assert written == r"/(?:c)/ & (/(?:a\/)(?s:.*)/ | /(?:b\$)(?s:.*)/) | /(?:d)/"
    assert lark_terminal("(?!a)\\/[/\\\\/]\n\\\n") == r"/(?:\/[\/\\\/]\n\n)/ & ~(/(?:a)(?s:.*)/)"
    with pytest.raises(Unwritable, match="anchor in the middle"):
        lark_terminal("(?!a$b)c")
