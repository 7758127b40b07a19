"""Reading filter files: phrases, patterns, sections, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from offgrid.errors import ConfigError
from offgrid.filters.pattern import PatternError, parse_pattern
from offgrid.filters.program import FilterProgram, Term, compile_terms
from offgrid.filters.source import read_filter


def program_of(folder: Path, text: str | bytes) -> FilterProgram:
    path = folder / "filter.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    terms = read_filter(path)
    return compile_terms(terms.answers, terms.prompts)


def test_a_file_has_phrases_patterns_comments_and_sections(tmp_path: Path) -> None:
    program = program_of(
        tmp_path,
        "\ufeff# words\r\n  Bad Word \r\n\n[answers]\n/secret-\\d{3}/\n[prompts]\njailbreak\n"
        "[both]\nugly",
    )
    answers, prompts = program.answers.filter(), (program.prompts or program.answers).filter()
    assert answers is not None
    assert prompts is not None
    for text, in_answers, in_prompts in (
        ("a BAD word", True, True), ("so ugly", True, True), ("secret-123", True, False),
        ("SECRET-123", False, False), ("JAILBREAK", False, True), ("# words", False, False),
    ):  # fmt: skip
        assert answers.found(text) == in_answers, text
        assert prompts.found(text) == in_prompts, text


def test_the_digest_names_the_terms_and_not_their_order(tmp_path: Path) -> None:
    first, second = program_of(tmp_path, "a\nb\n"), program_of(tmp_path, "# x\nb\na\n")
    assert first.digest == second.digest
    assert first.digest != program_of(tmp_path, "a\nb\nc").digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a+/", r"line 3: \+ repeats without a limit.*such as \{1,20\}"),
        ("/a*b/", r"line 3: \* repeats without a limit"),
        ("/a{2,}/", r"line 3: \{2,\} repeats without a limit.*\{2,22\}"),
        ("/^a/", "line 3: .* looks everywhere"),
        ("/(?=a)/", "line 3: .* supported only as"),
        (r"/(a)\1/", "line 3: .*not supported"),
        ("/a?/", "line 3: it matches the empty text"),
        (r"/\b/", "line 3: it matches the empty text"),
        ("/(a/", "line 3: a group is not closed"),
        ("/a)/", "line 3: it closes a group"),
        ("/[a/", "line 3: it ends in the middle"),
        ("/a{1001}/", "line 3: it repeats more than 1000"),
        ("/(a{100}){11}/", "line 3: it repeats more than 1000"),
        (r"/a((\b\b){1000}){1000}/", "line 3: a group without any character"),
        ("/a(|){1000}/", "line 3: a group without any character"),
        ("/abc", "line 3: a regular expression ends with /"),
        ("/abc/g", "line 3: the flag 'g' is not supported"),
        ("//", "line 3: a regular expression ends with /"),
        ("x" * 257, "line 3: the phrase has more than 256 bytes"),
        ("\u023a" * 100, "line 3: the phrase has more than 256 bytes"),  # longer when folded
        (b"\xff\xfe", "line 3: it is not UTF-8"),
        ("/" + "(" * 70 + "a" + ")" * 70 + "/", "line 3: more than 64 groups"),
        (r"/\x4/", "line 3: .*wrong number of digits"),
        (r"/\uD80/", "line 3: .*wrong number of digits"),
        ("/{a/", r"line 3: \{ repeats nothing"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    """C10: a pattern that could not be followed in one pass is refused."""
    line = line.encode() if isinstance(line, str) else line
    with pytest.raises(ConfigError, match=message):
        program_of(tmp_path, b"# one\ntwo\n" + line + b"\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt: the filter file cannot be read"):
        read_filter(tmp_path / "none.txt")


def test_too_many_repetitions_together_are_refused() -> None:
    with pytest.raises(PatternError, match="1000"):
        parse_pattern("(" * 20 + "a" + "{0,9})" * 20)
    with pytest.raises(ValueError, match="places"):
        compile_terms([], [*map(_wide, range(60))])


def _wide(number: int) -> Term:
    return Term(f"x{{{900 + number % 100}}}y{number}", True)
