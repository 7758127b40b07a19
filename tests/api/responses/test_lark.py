"""Lark grammars as regular expressions: the same texts, or None."""

from __future__ import annotations

import re

import pytest
from responses_calls import PATH, body
from support import Json, request
from work import lines_run

from offgrid.api.chat.tools import MAX_TOOLS
from offgrid.api.responses.lark import MAX_PATTERN, lark_pattern
from offgrid.api.responses.tools import _lark_as_pattern, gather
from offgrid.errors import InvalidParameter


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        ('start: "a"', ["a"], ["", "b", "aa"]),
        ('start: "a" | "b" "c" | ', ["a", "bc", ""], ["b", "abc"]),
        ('start: a\n  | b\n\n  | "c"\na: "x"\nb: "y"', ["x", "y", "c"], ["xy"]),
        ('start: ("a"\n | "b")+ "c"?', ["ab", "bac"], ["", "c"]),
        ('start: "x"~2 "y"~1..3 "z"{2,} "w"{1}', ["xxyzzw", "xxyyyzzzw"], ["xyzzw", "xxyzw"]),
        ('start: "a".."c" [NUM]\nNUM: /[0-9]+/', ["a", "c12"], ["d", "1"]),
        ('start: "Yes"i "!"', ["yes!", "YES!"], ["yes", "ye!"]),
        ('start: "a.b*(c)[d]\\\\/-"', ["a.b*(c)[d]\\/-"], ["aXb*(c)[d]\\/-"]),
        ('start: "\\t\\"" LF\n%import common.LF', ['\t"\n'], ['\t"']),
        ("start: WORD _S INT -> pair\n%import common (WORD, INT)\n_S: / +/", ["a  1"], ["a1"]),
        ("start: N\n%import common.NEWLINE -> N", ["\n", "\r\n\n"], [""]),
        ("?start: x // comment\n# another\n!x: /a|b/ /c/", ["ac", "bc"], ["a", "c"]),
        ("start: /[^a\\/]+/", ["b\n"], ["a", "/"]),
    ],
)
def test_the_same_texts(source: str, texts: list[str], others: list[str]) -> None:
    pattern = lark_pattern(source)
    assert pattern is not None
    assert [text for text in texts if not re.fullmatch(pattern, text)] == []
    assert [text for text in others if re.fullmatch(pattern, text)] == []


@pytest.mark.parametrize(
    "source",
    [
        "", "x: /a/", 'start: "a" start?', 'start: a\na: "x" b\nb: a', "start: missing",
        'start: "a"\n%ignore " "', "start: /a/i", "start: /^a/", "start: /a$/", "start: /(?=a)b/",
        "start: /(a)\\1/", 'start: "a', "start: (", 'start: "a")', "start: <tool>",
        'start.2: "a"', 'start: "a"\nstart: "b"', 'start[lazy]: "a"', "start: @x",
        "start: x\n%import common.ESCAPED_STRING -> x", "start: x\n%import other.LF -> x",
        'start: "\\q"', 'start: "ab".."c"', 'start: "c".."a"', 'start: "a"~', 'start: %json {}',
        "start: " + "(" * 100 + '"a"' + ")" * 100, "start: " + "a " * 10_000,
    ],
)  # fmt: skip
def test_not_converted(source: str) -> None:
    assert lark_pattern(source) is None


def test_rules_that_multiply() -> None:
    rules = "\n".join(f"a{n}: a{n + 1} a{n + 1}" for n in range(30))
    assert lark_pattern(f'start: a0\n{rules}\na30: "{"x" * 10}"') is None
    assert MAX_PATTERN < 1 << 20


def test_empty_lines_are_read_once() -> None:
    def read(lines: int) -> str | None:
        return lark_pattern('start: "a"' + "\n" * lines + '| "b"')

    assert read(800) == read(1)
    assert lines_run(lambda: read(800)) < 8 * lines_run(lambda: read(200))


def test_no_more_grammars_are_read_than_there_may_be_tools() -> None:
    def tools(number: int) -> list[Json]:
        return [
            {"type": "custom", "name": f"t{n}",
             "format": {"type": "grammar", "syntax": "lark", "definition": f'start: "many{n}"'}}
            for n in range(number)
        ]  # fmt: skip

    assert len(gather(tools(MAX_TOOLS)).offered) == MAX_TOOLS
    for many in (tools(1000), [{"type": "namespace", "name": "n", "tools": tools(1000)}]):
        _lark_as_pattern.cache_clear()
        with pytest.raises(InvalidParameter, match="at most 128") as refused:
            gather(many)
        assert refused.value.param == "tools"
        assert _lark_as_pattern.cache_info().misses == MAX_TOOLS


def test_a_tool_that_is_replaced_has_few_grammars() -> None:
    """Each item of a conversation may add tools, which replace those of the same name."""

    def added(number: int) -> list[tuple[str, list[Json]]]:
        return [
            ("input", [{"type": "custom", "name": "t", "format": {
                "type": "grammar", "syntax": "lark", "definition": f'start: "again{n % number}"'}}])
            for n in range(500)
        ]  # fmt: skip

    _lark_as_pattern.cache_clear()
    found = gather([], added(MAX_TOOLS)).offered["t"].function["parameters"]["properties"]
    assert found["input"]["pattern"] == f"^(?:(?:again{499 % MAX_TOOLS}))$"
    assert _lark_as_pattern.cache_info().misses == MAX_TOOLS
    with pytest.raises(InvalidParameter, match="128 different grammars"):
        gather([], added(MAX_TOOLS + 1))


def test_a_grammar_that_is_not_enforced_is_shown_and_named(base_url: str) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "a" start?'}
    tool = {"type": "custom", "name": "say", "format": grammar}
    (offered,) = gather([tool]).offered.values()
    assert grammar["definition"] in offered.function["description"]
    assert offered.function["strict"] is None
    answer = request(base_url, "POST", PATH, body(tools=[tool], max_output_tokens=1))
    assert answer.status == 200
    assert answer.headers["x-offgrid-ignored"] == "tools.say.format"
    assert answer.json["tools"] == [tool]
