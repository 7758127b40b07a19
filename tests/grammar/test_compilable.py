"""Sources of every kind in llguidance's dialect, and refusals before compilation."""

from __future__ import annotations

import json

import pytest

from offgrid.grammar import compilable as module
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.compilable import (
    MAX_CHOICES,
    MAX_SOURCE,
    GrammarError,
    check_size,
    compilable,
    compilable_part,
)
from offgrid.grammar.options import JSON_OPTIONS, NO_FORCING


@pytest.mark.parametrize(
    ("kind", "source", "lark"),
    [
        ("gbnf", 'root ::= "a"', "start: T0\nT0: /a/"),
        ("regex", "a+b", "start: /a+b/"),
        ("choice", '["a", "\u00e9"]', 'start: CHOICE\nCHOICE: "a" | "\u00e9"'),
        ("lark", 'start: "a"', 'start: "a"'),
        ("answer", 'start: "a"', 'start: "a"'),
    ],
)
def test_every_kind_in_lark(kind: str, source: str, lark: str) -> None:
    assert kind in MAX_SOURCE
    text = compilable(kind, source)
    assert text.startswith(lark)
    assert text.endswith(NO_FORCING)


def test_a_schema_in_lark() -> None:
    checked = CheckedSchema({"type": "null"}, "field")
    text = compilable("json_schema", "", (checked,))
    assert text == compilable_part({"type": "null"})
    schema = json.loads(text.removesuffix(NO_FORCING).removeprefix("start: %json "))
    assert schema == {"type": "null", "x-guidance": JSON_OPTIONS}


def test_schemas_of_an_answer_are_rules() -> None:
    schemas = (CheckedSchema({"type": "null"}, "a"), CheckedSchema({}, "b", arguments=True))
    text = compilable("answer", "start: schema_0 schema_1\n", schemas)
    lines = text.removesuffix(NO_FORCING).splitlines()
    assert lines[0] == "start: schema_0 schema_1"
    assert lines[1:] == [f"schema_{n}: %json {schema.text}" for n, schema in enumerate(schemas)]
    with pytest.raises(GrammarError, match="it has 69"):
        check_size("answer", "x" * 600_000, (CheckedSchema({"const": "x" * 90_000}, "c"),))


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("gbnf", 'root ::= "a', "a text or class is not closed"),
        ("regex", "(a{1000}){1000}", "repeats too much"),
        ("choice", "[]", f"1 to {MAX_CHOICES} texts"),
        ("choice", json.dumps(["a"] * (MAX_CHOICES + 1)), f"1 to {MAX_CHOICES} texts"),
        ("lark", "start: %json {}", "%json is not supported"),
        ("answer", "start: %json {}", "%json is not supported"),
        ("lark", 'start: a\na: "x" a', "rule a never ends"),
    ],
)
def test_sources_that_are_refused(kind: str, source: str, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        compilable(kind, source)


@pytest.mark.parametrize("digits", [1, 5000])
def test_a_rule_that_may_be_left_out_ends(digits: int) -> None:
    """Python refuses to convert 5,000 digits."""
    zero, nine = "0" * digits, "9" * digits
    for count in (f"~{zero}", f"~{zero}..{nine}", f"{{{zero},{nine}}}", "{,2}"):
        assert compilable("lark", f'start: a\na: "x" a{count}')
    for count in (f"~{nine}", f"~{nine}..{nine}", f"{{{nine},}}"):
        with pytest.raises(GrammarError, match="rule a never ends"):
            compilable("lark", f'start: a\na: "x" a{count}')


def test_sizes_are_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SOURCE", {"regex": 4})
    check_size("regex", "\u00e9\u00e9")
    with pytest.raises(GrammarError, match="it has 6 bytes; the maximum is 4"):
        check_size("regex", "\u00e9\u00e9\u00e9")
