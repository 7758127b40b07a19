"""Grammars with the starter's vocabulary: masks against a naive reference, refusals, limits."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer
from schemas import composed_schema, odd_schema
from support import TIMEOUT
from work import lines_run

from offgrid.engine.protocol import Grammar
from offgrid.engine.worker import grammars as module
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Masks, Matcher
from offgrid.errors import InvalidParameter, Overloaded
from offgrid.grammar.checked import CheckedSchema

LOAD = {"ctx_size": 64, "parallel": 1}


@pytest.fixture(scope="module")
def grammars(loaded: Model) -> Grammars:
    return Grammars(loaded)


@pytest.fixture(scope="module")
def pieces(loaded: Model) -> list[bytes]:
    return [loaded.piece(token) for token in range(loaded.n_vocab)]


def make(grammars: Grammars, kind: str, source: Any) -> Matcher:
    text = source if isinstance(source, str) else json.dumps(source)
    if kind == "json_schema":
        grammar = Grammar.of_schema(CheckedSchema(text, "field"))
    else:
        grammar = Grammar(kind, text, "field")
    return grammars.matchers(grammar, 1)[0]


def allowed(matcher: Matcher, n_vocab: int) -> set[int]:
    bits = np.unpackbits(matcher.mask.view(np.uint8), bitorder="little")
    assert not bits[n_vocab:].any()
    return set(np.flatnonzero(bits).tolist())


def accepts(matcher: Matcher, model: Model, text: str) -> bool:
    """Whether a matcher accepts a text in single-byte tokens and may end after it."""
    matcher = matcher.copy()
    byte = {
        model.piece(token): token for token in range(model.n_vocab) if len(model.piece(token)) == 1
    }
    for value in text.encode():
        token = byte[bytes([value])]
        if token not in allowed(matcher, model.n_vocab):
            return False
        matcher.advance(token)
        assert matcher.error is None
    return matcher.accepting


def naive_mask(model: Model, pieces: list[bytes], language: set[bytes], so_far: bytes) -> set[int]:
    """Try every token of the vocabulary: may a text of the language continue with it?"""
    found = set()
    for token, piece in enumerate(pieces):
        if token in model.eog_ids:
            if so_far in language:
                found.add(token)
        elif piece and any(text.startswith(so_far + piece) for text in language):
            found.add(token)
    return found


def walk(
    matcher: Matcher, model: Model, pieces: list[bytes], language: set[bytes], rng: random.Random
) -> None:
    """Follow one random answer; the mask at every position must equal the naive search's."""
    so_far = b""
    while True:
        found = allowed(matcher, model.n_vocab)
        assert found == naive_mask(model, pieces, language, so_far), so_far
        assert matcher.accepting == (so_far in language)
        token = rng.choice(sorted(found))
        if token in model.eog_ids:
            return
        so_far += pieces[token]
        matcher.advance(token)
        assert matcher.error is None
        if allowed(matcher, model.n_vocab) <= model.eog_ids:
            assert so_far in language
            return


texts = st.text(st.sampled_from('ab c"\\/\n{é€😀\x01'), max_size=6)


@settings(max_examples=25, deadline=None)
@given(choices=st.lists(texts, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_choices_against_the_naive_search(
    grammars: Grammars, loaded: Model, pieces: list[bytes], choices: list[str], seed: int
) -> None:
    matcher = make(grammars, "choice", choices)
    walk(matcher, loaded, pieces, {text.encode() for text in choices}, random.Random(seed))


def finite_gbnf(rng: random.Random, depth: int) -> tuple[str, set[str]]:
    """A random GBNF expression without recursion, and all texts of its language."""
    kind = rng.randint(0, 5 if depth else 1)
    if kind == 0:
        text = "".join(rng.choice('ab "\\\n]é') for _ in range(rng.randint(0, 3)))
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"', {text}
    if kind == 1:
        return rng.choice([("[ab]", {"a", "b"}), ("[a-c]", {"a", "b", "c"}),
                           ("[\\]\\x2F-]", {"]", "/", "-"}), ("[\\u00e9]", {"é"})])  # fmt: skip
    if kind == 2:
        inner, language = finite_gbnf(rng, depth - 1)
        low, high = rng.choice([(0, 1), (1, 2), (2, 2)])
        suffix = "?" if (low, high) == (0, 1) else f"{{{low},{high}}}"
        words = {"".join(p) for n in range(low, high + 1) for p in product(language, repeat=n)}
        return f"({inner}){suffix}", words
    parts = [finite_gbnf(rng, depth - 1) for _ in range(2)]
    if kind == 3:
        return f"({parts[0][0]} | {parts[1][0]})", parts[0][1] | parts[1][1]
    return f"{parts[0][0]} {parts[1][0]}", {a + b for a, b in product(parts[0][1], parts[1][1])}


def test_gbnf_against_the_naive_search(
    grammars: Grammars, model: Model, pieces: list[bytes]
) -> None:
    """A GBNF grammar without recursion allows exactly its language."""
    assert search_finite_gbnf(grammars, model, pieces, range(30)) > 15


@pytest.mark.slow
def test_hundreds_of_gbnf_grammars_against_the_naive_search(
    grammars: Grammars, model: Model, pieces: list[bytes]
) -> None:
    """The default run covers 30 of them."""
    assert search_finite_gbnf(grammars, model, pieces, range(30, 400)) > 200


def search_finite_gbnf(grammars: Grammars, model: Model, pieces: list[bytes], seeds: range) -> int:
    """Compare random grammars with their languages; return how many were small enough."""
    tried = 0
    for seed in seeds:
        rng = random.Random(seed)
        source, language = finite_gbnf(rng, 3)
        other, also = finite_gbnf(rng, 1)
        if len(language) * len(also) > 60:
            continue
        tried += 1
        rules = f"root ::= one two # comment\none ::= {source}\n\ntwo ::=\n  {other}\n  | {other}\n"
        words = {(a + b).encode() for a, b in product(language, also)}
        walk(make(grammars, "gbnf", rules), model, pieces, words, rng)
    return tried


JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("kind", "source", "good", "bad"),
    [
        ("gbnf", JSON_GBNF, ['{"a": [1, -2.5e3, {"b": "x\\n\\u00e9"}], "c": null}', "{ }"],
         ["[]", '{"a":}', '{"a": 01}', '{"a":  1}']),
        ("gbnf", 'root ::= e\ne ::= e "+" e | [0-9]+ | "(" e ")"', ["1+(22+3)"], ["1+", "", "()"]),
        ("gbnf", 'root ::= [a-z]* "a"', ["aaa", "ba"], ["ab", ""]),
        ("gbnf", 'root ::= x\nx ::= "a" x |', ["", "aaa"], ["ab"]),
        ("gbnf", "root ::= .", ["\n", "é"], ["", "ab"]),
        ("regex", r"[^@]+@[a-z]+\.(com|org)", ["a b@example.com"], ["@a.com", "a@b.comm"]),
        ("regex", r"\d{3,}", ["123456"], ["12"]),
        ("lark", 'start: "[" item ("," item)* "]"\nitem: /[0-9]+/ | start', ["[1,[2,3]]"], ["[]"]),
        ("json_schema", {"type": "object"}, ['{"a":[1,{"b":null}]}', "{}"], ["[]", "{} ", '"a"']),
        ("json_schema", {"$ref": "#/$defs/node", "$defs": {"node": {
            "type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"},
                                                                 {"type": "null"}]}},
            "required": ["next"], "additionalProperties": False}}},
         ['{"next": {"next": null}}', '{\n  "next": null\n}'], ['{"next": {}}', "{}"]),
        ("json_schema", {"oneOf": [
            {"type": "object", "properties": {"k": {"const": "a"}, "n": {"type": "integer"}},
             "required": ["k", "n"]},
            {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}]},
         ['{"k":"a","n":5}', '{"k":"b"}'], ['{"k":"a"}', '{"k":"c"}', '{"k":"b","x":1}']),
        ("json_schema", {"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2024-13-01"']),
        ("json_schema", {"type": "string", "pattern": "^a.*z$"}, ['"abcz"'], ['"abc"']),
        ("json_schema", {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                                   {"type": "object", "required": ["b"]}]},
         ['{"a":1,"b":2}'], ['{"a":1}', "5"]),
        ("json_schema", {"enum": [1, "x", None, {"a": []}]}, ["1"], ["2", '{"a":[1]}']),
        # A declared name occurs once, even if it is escaped; others may occur twice.
        ("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}},
                         "additionalProperties": True},
         ['{"a":1,"b":"x"}', '{"b":1,"b":2}', '{"\u00e9":1,"A":2}', '{"b\\n":1}'],
         ['{"a":"x"}', '{"a":1,"a":2}', '{"b":1,"a":2}', '{"\\u0061":"x"}']),
        ("json_schema", {"type": "object", "patternProperties": {"^x": {"type": "integer"}},
                         "additionalProperties": {"type": "string"}},
         ['{"x":1,"y":""}'], ['{"x":""}', '{"\\u0078":""}']),
        ("json_schema", {"type": "string", "format": "date-time"},
         ['"2024-02-29T23:59:59Z"', '"2000-02-29T00:00:00.5+02:00"'],
         ['"2023-02-29T00:00:00Z"', '"1900-02-29T00:00:00Z"', '"2024-02-28T23:59:60Z"']),
        ("json_schema", {"type": "string", "format": "date"}, ['"0004-02-29"', '"1999-12-31"'],
         ['"2100-02-29"', '"0000-01-01"', '"2024-04-31"', '"2024-02-30"']),
        ("json_schema", {"type": "number", "exclusiveMinimum": 9, "maximum": 9.5},
         ["9.25", "9.5"], ["9", "9.0", "9.6", "8"]),
        ("json_schema", {"type": "number", "exclusiveMaximum": 0, "minimum": -0.5},
         ["-0.25", "-0.5"], ["0", "-0", "0.1", "-0.6"]),
        ("json_schema", {"type": "integer", "minimum": -(2**63), "maximum": 2**64},
         ["5", "-5", "1000000000000000000"], ["1.5"]),
        ("json_schema", {"type": "integer", "minimum": 9007199254740993},
         ["9007199254740994"], ["9007199254740992"]),
        ("json_schema", {"prefixItems": [{"type": "integer"}], "items": {"type": "string"},
                         "additionalItems": True, "type": "array"}, ['[1,"a"]'], ['["a"]']),
        ("json_schema", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                         "prefixItems": [{"type": "integer"}]}, ["[1]"], ['["a"]']),
        ("json_schema", {"type": "array", "items": [{"type": "integer"}], "additionalItems": False},
         ["[1]", "[]"], ['["a"]', "[1,2]"]),
        ("json_schema", {"type": "string", "pattern": "^[[&-]$"}, ['"["', '"&"', '"-"'], ['"a"']),
        ("json_schema", {"type": "string", "pattern": "^[^\\x00-\\x1f]$"},
         ['"a"'], ['""', '"\\n"']),
        ("json_schema", {"type": "string", "pattern": "^[\\x01b-]?[-]$"}, ['"b-"', '"--"', '"-"'],
         ['"a-"']),
        ("json_schema", {"type": "string", "pattern": "^[+--]$"}, ['"+"', '","'], ['"."']),
        ("json_schema", {"type": "string", "pattern": "^[^\"]*$"}, ['"a"', '"\\\\"', '"\\n"'],
         ['"\\""']),
        ("json_schema", {"type": "string", "pattern": "^[^-\\\\]*$"}, ['"a"', '"\\""'],
         ['"\\\\"', '"-"']),
        ("json_schema", {"type": "string", "pattern": "^[\\0-!-]$"}, ['"\\n"', '"!"', '"-"'],
         ['"\\""', '"\\\\"']),
        ("json_schema", {"type": "string", "pattern": "^[^]$"}, ['"a"', '"\\n"'], ['""']),
        ("json_schema", {"$ref": "#/x/y", "x": {"y": {"type": "string", "format": "password"}}},
         ['"a"'], ["1"]),
        # Objects have only the members that their schema describes, in all of its parts.
        ("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}},
         ['{"a":1}', "{}"], ['{"a":1,"b":1}', '{"b":1}']),
        ("json_schema", {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"const": 1}}}],
                         "properties": {"c": {"$ref": "#/$defs/a"}}, "type": "object",
                         "$defs": {"a": {"properties": {"a": {"const": 1}}, "type": "object"}}},
         ['{"a":1,"b":1,"c":{"a":1}}', '{"b":1}'], ['{"x":1}', '{"c":{"b":1}}', '{"c":{"x":1}}']),
        ("json_schema", {"type": "object", "properties": {"k": {"type": "string"}}, "anyOf": [
            {"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {}}}]},
         ['{"k":"","a":1}', '{"k":"","b":[]}'], ['{"k":"","x":1}', '{"x":1}']),
        # A property that could never end is not entered.
        ("json_schema", {"type": "object", "properties": {
            "a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n/properties/c"}}, "$defs": {
            "n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}, "c": {"const": 1}},
                  "required": ["n"]}}},
         ['{"b":1}', "{}"], ['{"a":1}', '{"a":{', '{"b":2}']),
        ("json_schema", {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {
            "n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}},
         ["[]"], ["[[", "[1]"]),
        ("json_schema", {"anyOf": [{"type": "array", "minItems": 1, "items": {"$ref": "#"}},
                                   {"type": "null"}]}, ["null", "[null,[null]]"], ["[]"]),
    ],
)  # fmt: skip
def test_texts_that_a_grammar_allows(
    grammars: Grammars, model: Model, kind: str, source: Any, good: list[str], bad: list[str]
) -> None:
    matcher = make(grammars, kind, source)
    for text in good:
        assert accepts(matcher, model, text), text
    for text in bad:
        assert not accepts(matcher, model, text), text


EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
LOOKING_AHEAD = [
    EMAIL, DECIMAL, "^(?!x-)", "^(?=.*[A-Z])(?=.*\\d).{3,8}$", "(?!ab)[ab]+$", "(?=a.*b)(?!.*c)",
    "^(?!.*(?:aab|acb|null))[^x]*$",
    "^a(?!a|b$)", '^(?!["\\\\])[^a]*$', "^(?!(?:null|true)$)[a-z]{4}$", "^(?!a)b|c",
]  # fmt: skip
WORDS = ["a@b.co", ".a@b.co", "a..b@c.de", "-1.50", "-", ".", "x-y", "xy", "aB3", "ab3", "aab",
         "ab", "null", "nulls", "zero", 'b"', '"b', "\\", "b\\c\n", "c", "a\nb", "acb",
         ""]  # fmt: skip


def matched(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text; its dollar stands only for the end of the text."""
    return re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None


@pytest.mark.parametrize("pattern", LOOKING_AHEAD)
def test_look_aheads_in_patterns_mean_what_they_mean_in_python(
    grammars: Grammars, model: Model, pieces: list[bytes], pattern: str
) -> None:
    value = make(grammars, "json_schema", {"type": "string", "pattern": pattern})
    name = make(grammars, "json_schema", {
        "type": "object", "patternProperties": {pattern: {"const": 1}},
        "additionalProperties": False})  # fmt: skip
    for word in WORDS:
        text = json.dumps(word)
        assert accepts(value, model, text) == matched(pattern, word), word
        assert accepts(name, model, f"{{{text}:1}}") == matched(pattern, word), word
    ended = 0
    for seed in range(30):
        text = wander(value, model, pieces, random.Random(seed))
        if text is not None:
            assert matched(pattern, json.loads(text)), text
            ended += 1
    assert ended > 3


@pytest.mark.parametrize(
    "pattern",
    [
        *LOOKING_AHEAD[:4],
        "(?!ab)[ab]+",
        "(?=a.*b)(?!.*c)(?s:.*)",
        "(?!a)[ab]|(?!c)[cd]",
        "(?=a)(ab)?",
    ],
)
def test_look_aheads_in_regular_expressions(
    grammars: Grammars, model: Model, pieces: list[bytes], pattern: str
) -> None:
    matcher = make(grammars, "regex", pattern)
    whole = re.compile(pattern.replace("$", r"\Z"))
    for word in WORDS:
        assert accepts(matcher, model, word) == (whole.fullmatch(word) is not None), word
    for seed in range(10):
        text = wander(matcher, model, pieces, random.Random(seed))
        assert text is None or whole.fullmatch(text) is not None


def wander(
    matcher: Matcher, model: Model, pieces: list[bytes], rng: random.Random, steps: int = 60
) -> str | None:
    """A random answer of a matcher; None if it has not ended after some tokens."""
    matcher = matcher.copy()
    text = b""
    for _ in range(steps):
        found = allowed(matcher, model.n_vocab)
        if found & model.eog_ids and (rng.random() < 0.2 or found <= model.eog_ids):
            return text.decode()
        inside = sorted(found - model.eog_ids)
        # Rather the characters of the patterns, and the end of the string.
        some = [token for token in inside if pieces[token] in (b"a", b"b", b".", b"@", b"-", b"1")]
        ends = [token for token in inside if pieces[token] == b'"']
        chance = rng.random()
        token = rng.choice(
            ends if ends and chance < 0.2 else some if some and chance < 0.9 else inside
        )
        text += pieces[token]
        matcher.advance(token)
        assert matcher.error is None
    return None


def test_open_objects(loaded: Model, model: Model) -> None:
    grammars = Grammars(loaded, open_objects=True)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    matcher = make(grammars, "json_schema", schema)
    assert accepts(matcher, model, '{"a":1,"b":[{"c":1}]}')
    closed = {**schema, "additionalProperties": False}
    assert not accepts(make(grammars, "json_schema", closed), model, '{"a":1,"b":1}')


def test_closing_objects_makes_no_schema_unusable(loaded: Model, grammars: Grammars) -> None:
    compared = compare_with_open_objects(Grammars(loaded, open_objects=True), grammars, range(60))
    assert compared > 30


@pytest.mark.slow
def test_closing_objects_makes_none_of_many_schemas_unusable(
    loaded: Model, grammars: Grammars
) -> None:
    """The default run covers 60 of them."""
    compared = compare_with_open_objects(
        Grammars(loaded, open_objects=True), grammars, range(60, 3000)
    )
    assert compared > 1500


def compare_with_open_objects(opened: Grammars, closed: Grammars, seeds: range) -> int:
    """Compile schemas with closed objects that compile with open ones; return their number."""
    compared = 0
    for seed in seeds:
        schema = composed_schema(seed)
        try:
            make(opened, "json_schema", schema)
        except InvalidParameter:
            continue
        make(closed, "json_schema", schema)
        compared += 1
    return compared


def test_control_tokens_are_not_text(grammars: Grammars, model: Model) -> None:
    """Control tokens of the template are banned even where any text is allowed."""
    matcher = make(grammars, "regex", "(?s:.)*")
    found = allowed(matcher, model.n_vocab)
    assert found.isdisjoint(set(model.control_ids) - model.eog_ids)
    assert found >= model.eog_ids
    assert len(found) > model.n_vocab - 300


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("json_schema", {"type": "object", "properties": {"a/b": {"items": {"uniqueItems": True}}}},
         "at /properties/a~1b/items: unsupported keywords"),
        ("json_schema", {"anyOf": [{}, {"type": "string", "format": "regex"}]},
         "at /anyOf/1: Unknown format: regex"),
        ("json_schema", {"$defs": {"x": {"type": "foo"}}, "$ref": "#/$defs/x"}, "at /$defs/x: Inv"),
        ("json_schema", {"type": "string", "pattern": "a(?<=b)"}, "look-around"),
        ("json_schema", {"type": "string", "pattern": "(a(?!b))*"}, "a pattern repeats a group"),
        ("regex", "a(?!b)", "look-around"),
        ("json_schema", {"items": {"pattern": "^(?!\\b)"}}, "at /items: a pattern has a look"),
        ("regex", "(?!a$b)c", "it has an anchor in the middle"),
        ("json_schema", {"type": "string", "pattern": "(["}, "unclosed character class"),
        ("json_schema", {"oneOf": [{"type": "number"}, {"type": "integer"}]}, "use anyOf"),
        ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
         "at /$defs/a: it refers only to itself"),
        ("json_schema", {"$ref": "#/$defs/a"}, "points to nothing"),
        ("json_schema", {"$ref": "http://example.com/schema"}, "points outside the schema"),
        ("json_schema", {"type": "integer", "minimum": 5, "maximum": 2}, "nsatisfiable"),
        ("json_schema", {"enum": []}, "nsatisfiable"),
        ("json_schema", {"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ("json_schema", '{"a":', "not valid JSON"),
        ("json_schema", "[1]", "must be an object"),
        *(("json_schema", {word: value}, "unsupported keywords") for word, value in {
            "not": {"type": "null"}, "dependentRequired": {"a": ["b"]}, "uniqueItems": True,
            "contains": {"type": "null"}, "propertyNames": {"format": "uuid"}, "$dynamicRef": "#a",
            "dependencies": {"a": ["b"]}}.items()),
        ("regex", "([", "unclosed character class"),
        ("regex", r"\bword", "ookaround"),
        ("regex", "a" * 20_000, "the maximum is 16384"),
        ("lark", "start: foo", "unknown name"),
        ("lark", "start: <|nope|>", "unknown special token"),
        ("lark", 'start: %json {"type":"integer","multipleOf":99999999}', "%json"),
        ("gbnf", "root ::= x", "uses x, which is not defined"),
        ("gbnf", 'rot ::= "a"', "no rule named root"),
        ("gbnf", 'root ::= "a\n', "line 1: a text or class is not closed"),
        ("gbnf", 'root ::= "a"\nx = "b"', "line 2: expected ::="),
        ("gbnf", "root ::= <[12]>", "line 1: expected"),
        ("gbnf", 'root ::= "a"\nroot ::= "b"', "line 2: rule root is defined twice"),
        ("gbnf", "root ::= [z-a]", "descending order"),
        ("gbnf", 'root ::= "a"{3,1}', "descending order"),
        ("gbnf", 'root ::= "\\q"', "unknown escape"),
        ("choice", [], "1 to 10000"),
        ("prose", "x", "Unknown kind"),
    ],
)  # fmt: skip
def test_grammars_that_are_refused(
    grammars: Grammars, kind: str, source: Any, message: str
) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(message)) as error:
        make(grammars, kind, source)
    assert error.value.param == "field"


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("gbnf", 'root ::= "a" root | "b"'),
        ("gbnf", 'root ::= "a"\nunused ::= "a" unused'),
        ("gbnf", 'root ::= x*\nx ::= "a" root "b"'),
        ("lark", 'start: a (" " a)*\na: /x/ | "[" start "]" -> foo\n  | B\nB: "b".."d" & /[a-c]/'),
        ("lark", 'start: x~2..3\nx[capture]: "b" | x "c"'),
        ("lark", '%llguidance {"no_forcing": true}\nstart: x{2,3} y?\n?x: "a" [x]\ny: "b"+ x'),
    ],
)
def test_rules_that_end(grammars: Grammars, kind: str, source: str) -> None:
    make(grammars, kind, source)


def odd_answers(grammars: Grammars, pieces: list[bytes], seeds: range) -> tuple[int, int]:
    """Check that answers satisfy odd schemas, or that the refusal names a place in the schema.

    Tokens are sampled without a model, so that rare ones occur too: escapes, split names.
    """
    closing = {b'"', b"}", b"]", b'"}', b'"]'}
    complete = refused = 0
    for seed in seeds:
        schema = odd_schema(seed)
        try:
            first = make(grammars, "json_schema", schema)
        except InvalidParameter as ex:
            refused += 1
            assert "used: at " in ex.message, (seed, schema)  # noqa: PT017
            continue
        check = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for draw in range(4):
            rng, matcher, text = random.Random(draw), first.copy(), b""
            for length in range(120):
                assert matcher.error is None, (seed, schema, text)
                if matcher.accepting and rng.random() < 0.7:
                    complete += 1
                    assert check.is_valid(json.loads(text)), (seed, schema, text)
                    break
                choices = [t for t in allowed(matcher, len(pieces)) if pieces[t][:2] != b"<|"]
                if not choices:
                    break
                groups = [
                    choices,
                    [t for t in choices if len(pieces[t]) == 1],
                    [t for t in choices if pieces[t] in closing],
                ]
                group = groups[2 if length > 50 else rng.randrange(3)] or choices
                token = rng.choice(group)
                text += pieces[token]
                matcher.advance(token)
    return complete, refused


def test_odd_schemas_are_satisfied_or_refused(grammars: Grammars, pieces: list[bytes]) -> None:
    complete, refused = odd_answers(grammars, pieces, range(60))
    assert complete > 120
    assert 5 < refused < 30


@pytest.mark.slow
def test_thousands_of_odd_schemas(grammars: Grammars, pieces: list[bytes]) -> None:
    """The default run covers 60 of them."""
    odd_answers(grammars, pieces, range(1_000, 4_000))


def chain(n: int, link: Callable[[int], Any]) -> dict[str, Any]:
    return {"$ref": "#/$defs/0", "$defs": {str(i): link(i + 1) for i in range(n)}}


def waiting_rules(first: str, count: int) -> str:
    """One rule needs all others; they end one after another, in the order that it needs."""
    needed = " ".join(f"c{i}" for i in range(count - 1, -1, -1))
    chain = "".join(f'c{i}: c{i + 1} "x" | "y"\n' for i in range(count - 1))
    return f'{first}: c0\n{chain}c{count - 1}: r "x" | "y"\nr: {needed}\n'


HOSTILE: dict[str, tuple[str, Any]] = {
    "waiting rules": ("lark", waiting_rules("start", 1_000)),
    "gbnf waiting rules": ("gbnf", waiting_rules("root", 1_000).replace(":", " ::=")),
    "groups": ("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "gbnf groups": ("gbnf", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "suffixes": ("lark", "start: x" + "*" * 20_000 + '\nx: "a"'),
    "gbnf suffixes": ("gbnf", "root ::= x" + "?" * 20_000 + '\nx ::= "a"'),
    "regex groups": ("regex", "(" * 8_000 + "a" + ")" * 8_000),
    "regex power": ("regex", "((((a{100}){100}){100}){100}){100}"),
    "pattern power": ("json_schema", {"type": "string", "pattern": "(((a{1000}){1000}){9}){9}"}),
    "gbnf power": ("gbnf", 'root ::= ((("a"{1000}){1000}){1000}){1000}'),
    "gbnf power of rules": ("gbnf", "".join(f"r{i} ::= r{i + 1}{{99}}\n" for i in range(9))
                            + 'r9 ::= "a"\nroot ::= r0\n'),
    "optional": ("gbnf", 'root ::= (' + '"a"? ' * 10 + "){0,10}"),
    "optional classes": ("gbnf", "root ::= (" + "[a-z]? " * 10 + "){0,10}"),
    "subset": ("regex", "(a|b)*a(a|b){200}c"),
    "subset pattern": ("json_schema", {"type": "string", "pattern": "^(a|b)*a(a|b){200}c$"}),
    "intersection": ("lark", "start: A\nA: /(a|b)*a(a|b){20}/ & /(a|b)*a(a|b){23}/ & ~/b{29}/"),
    "ambiguous": ("lark", 'start: e\ne: e e | e e e | "" | /[a-z]/ | /[a-z][a-z]/'),
    "left recursion": ("lark", "start: start"),
    "many rules": ("lark", 'start: x{1000000}\nx: y{1000}\ny: "a" | z\nz: "b" z'),
    "remainders": ("json_schema", {"type": "integer", "multipleOf": 99_999_999}),
    "many multiples": ("json_schema", {"properties": {f"p{i}": {"multipleOf": 9_973, "minimum": i}
                                                      for i in range(600)},
                                       "required": [f"p{i}" for i in range(600)]}),
    "patterns": ("json_schema", {"allOf": [{"type": "string", "pattern": f"a{i}"}
                                           for i in range(40)]}),
    "patterns of a property": ("json_schema", {"allOf": [
        {"properties": {"p": {"$ref": f"#/$defs/{i}"}}} for i in range(40)],
        "$defs": {str(i): {"pattern": f"a{i}"} for i in range(40)}}),
    "some patterns": ("json_schema", {"allOf": [{"type": "string", "pattern": f"a{i}"}
                                                for i in range(10)]}),
    "patterns of names": ("json_schema", {"patternProperties": {f"^a{i}[a-z]*x{i}$": {}
                                                                for i in range(300)}}),
    "common multiple": ("json_schema", {"allOf": [{"multipleOf": p} for p in (97, 89, 83, 79)]}),
    "nested": ("json_schema", '{"items":' * 5_000 + "{}" + "}" * 5_000),
    "references": ("json_schema", chain(20_000, lambda i: {"items": {"$ref": f"#/$defs/{i}"}})),
    "deep references": ("json_schema", chain(2_000, lambda i: {"items": {"$ref": f"#/$defs/{i}"}})),
    "doubling": ("json_schema", chain(30, lambda i: {"allOf": [{"$ref": f"#/$defs/{i}"}] * 2})),
    "either": ("json_schema", {"allOf": [{"anyOf": [{"required": [f"{i}"]}, {"type": "string"}]}
                                         for i in range(30)]}),
    "wide": ("json_schema", {"properties": {f"p{i}": {} for i in range(5_000)}}),
    "large": ("json_schema", {"enum": list(range(60_000))}),
    "many choices": ("choice", [f"option {i * 7919}" for i in range(5_000)]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_cost_little(
    grammars: Grammars, model: Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Limits that count work refuse them or make following them cheap.

    Time limits are for grammars not foreseen here, so this test sets them high.
    """
    monkeypatch.setattr(module, "COMPILE_SECONDS", 60)
    monkeypatch.setattr("offgrid.engine.worker.matcher.STEP_SECONDS", 60)
    kind, source = HOSTILE[name]
    text = source if isinstance(source, str) else json.dumps(source)
    found: list[Matcher] = []
    refused: list[InvalidParameter] = []

    def compile() -> None:
        try:
            found.append(make(grammars, kind, text))
        except InvalidParameter as ex:
            refused.append(ex)

    assert lines_run(compile) < 60 * len(text) + 20_000
    for error in refused:
        assert "the compiler failed" not in error.message
        assert error.code != "grammar_too_complex"
    rng = random.Random(1)
    for matcher in found:
        for _ in range(40):
            choices = sorted(allowed(matcher, model.n_vocab) - model.eog_ids)
            if not choices or matcher.error is not None:
                break
            matcher.advance(rng.choice(choices))
        assert matcher.error != "a step takes too long"


def test_compiling_has_a_time_limit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(model)
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.05)
    # Disable the check that would refuse this schema.
    monkeypatch.setattr("offgrid.grammar.schema.MAX_MULTIPLE", 1 << 40)
    hard = {"type": "integer", "multipleOf": 99_991}
    with pytest.raises(InvalidParameter, match="too long") as error:
        make(grammars, "json_schema", hard)
    assert error.value.code == "grammar_too_complex"
    assert not grammars._refused  # a faster moment, or a faster machine, may manage it
    monkeypatch.setattr(module, "COMPILE_SECONDS", 60)
    assert make(grammars, "regex", "a").accepting is False  # others are served in the meantime


def test_the_tokeniser_of_grammars_does_not_count(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary takes longer than a grammar may, and is built for the first grammar at the
    latest."""
    grammars = Grammars(model)
    built: list[int] = []

    def build(*args: Any, **options: Any) -> LLTokenizer:
        until = time.thread_time() + 2 * module.COMPILE_SECONDS
        while time.thread_time() < until:
            pass
        built.append(1)
        return LLTokenizer(*args, **options)

    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.2)
    monkeypatch.setattr(module, "LLTokenizer", build)
    assert not make(grammars, "choice", ["a"]).accepting
    grammars.prepare()
    assert built == [1]


class Stuck:
    """A compilation that waits for permission to go on, and a clock that shows what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, grammars: Grammars) -> None:
        self.gets_on = threading.Event()
        self.begun = 0
        self.spent = 0.0
        monkeypatch.setattr(grammars, "_compile", self._compile)
        monkeypatch.setattr(module._ThreadClock, "seconds", lambda clock: self.spent)

    def _compile(self, grammar: Grammar) -> Any:
        self.begun += 1
        assert self.gets_on.wait(TIMEOUT)
        return grammar.source


@pytest.mark.slow
def test_a_compilation_without_processor_time_is_no_refusal(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is at fault, so the client may try again; the same compilation then goes on."""
    grammars = Grammars(model)
    stuck = Stuck(monkeypatch, grammars)
    monkeypatch.setattr(module, "COMPILE_WAIT", 0.02)
    grammar = Grammar("regex", "a", "field")
    for _ in range(4):
        with pytest.raises(Overloaded, match="too busy to compile") as error:
            grammars._first(grammar)
        assert error.value.code == "server_busy"
    stuck.gets_on.set()
    monkeypatch.setattr(module, "COMPILE_WAIT", TIMEOUT)
    assert grammars._first(grammar) == "a"
    assert stuck.begun == 1
    assert not grammars._abandoned


def test_only_some_compilations_run_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(model)
    stuck = Stuck(monkeypatch, grammars)
    stuck.spent = 2 * module.COMPILE_SECONDS
    for source in ("a", "b", "a", "b"):
        with pytest.raises(InvalidParameter, match="takes too long"):
            grammars._first(Grammar("regex", source, "field"))
    with pytest.raises(Overloaded, match="Other grammars"):
        grammars._first(Grammar("regex", "c", "field"))
    assert stuck.begun == 2
    stuck.gets_on.set()
    for compilation in grammars._abandoned.values():
        compilation.wait(TIMEOUT)
    stuck.spent = 0.0
    assert grammars._first(Grammar("regex", "c", "field")) == "c"


def test_a_compilation_that_gets_no_processor_time_is_awaited(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine gives the same answer as an idle one."""
    grammars = Grammars(model)
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.001)
    gets_on = threading.Event()
    asked = []

    def compile(grammar: Grammar) -> Matcher:
        assert gets_on.wait(TIMEOUT)
        return "compiled"  # type: ignore[return-value]

    def seconds(clock: object) -> float:
        asked.append(clock)
        if len(asked) == 3:
            gets_on.set()
        return 0.0

    monkeypatch.setattr(grammars, "_compile", compile)
    monkeypatch.setattr(module._ThreadClock, "seconds", seconds)
    assert grammars._first(Grammar("regex", "a", "field")) == "compiled"
    assert len(asked) >= 3


def test_a_thread_clock_runs_while_its_thread_does() -> None:
    clock = module._ThreadClock()
    clock.start()
    at_first = clock.seconds()
    sum(range(100_000))
    assert clock.seconds() > at_first >= 0


def test_a_step_that_takes_too_long_ends_the_matcher(
    grammars: Grammars, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = make(grammars, "regex", "[a-z]+")
    monkeypatch.setattr("offgrid.engine.worker.matcher.STEP_SECONDS", -1.0)
    matcher.advance(min(allowed(matcher, model.n_vocab)))
    assert matcher.error == "a step takes too long"


def test_compiled_grammars_are_cached_up_to_a_limit(model: Model) -> None:
    grammars = Grammars(model)
    first = make(grammars, "regex", "a|b")
    first.advance(min(allowed(first, model.n_vocab)))
    # One answer does not change the matcher of the next.
    second = make(grammars, "regex", "a|b")
    assert not second.accepting
    for number in range(100):
        make(grammars, "choice", [str(number)])
    assert len(grammars._compiled) <= 32


def test_a_refused_grammar_is_not_compiled_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = Grammars(model)
    with pytest.raises(InvalidParameter) as first:
        make(grammars, "json_schema", {"not": {}})
    monkeypatch.setattr(grammars, "_compile", lambda grammar: pytest.fail("compiled again"))
    with pytest.raises(InvalidParameter) as second:
        make(grammars, "json_schema", {"not": {}})
    assert (first.value.message, first.value.param) == (second.value.message, second.value.param)
    monkeypatch.undo()
    for number in range(40):
        with pytest.raises(InvalidParameter):
            make(grammars, "regex", f"({number}")
    assert len(grammars._refused) <= 32


def test_a_token_outside_of_the_grammar_is_an_error(grammars: Grammars, model: Model) -> None:
    matcher = make(grammars, "regex", "a+")
    outside = next(t for t in range(model.n_vocab) if t not in allowed(matcher, model.n_vocab))
    matcher.advance(outside)
    assert matcher.error is not None
    assert "\n" not in matcher.error


def test_masks_are_those_of_the_position(grammars: Grammars, model: Model) -> None:
    masks = Masks()
    matchers = [make(grammars, "regex", "[a-z]{3}"), make(grammars, "choice", ["zebra"])]
    expected = [matcher.copy() for matcher in matchers]
    tokens = [min(allowed(matcher, model.n_vocab)) for matcher in matchers]
    matchers[1].hard = True  # computed in a thread
    masks.start(list(zip(matchers, tokens, strict=True)))
    masks.wait(matchers, 60)
    for matcher, other, token in zip(matchers, expected, tokens, strict=True):
        other.advance(token)
        assert matcher.ready
        assert np.array_equal(matcher.mask, other.mask)


SLICED = {
    "short strings": ("json_schema", {"type": "string", "maxLength": 5}),
    "long strings": ("json_schema", {"type": "string", "minLength": 3, "maxLength": 40}),
    "words": ("regex", "[a-z]{2,9} [a-z]+"),
    "any JSON": ("json_schema", {"type": "object"}),
    "names": ("json_schema", {"type": "string", "pattern": "^[A-Za-z_][a-z0-9_]{0,6}$"}),
    "text": ("lark", r"start: /[^\n]*/"),
}


@pytest.mark.parametrize("name", SLICED)
def test_masks_are_the_same_without_slices_of_the_vocabulary(
    grammars: Grammars, model: Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sliced = make(grammars, *SLICED[name])
    monkeypatch.setattr(module, "SLICES", [])
    plain = make(Grammars(model), *SLICED[name])
    rng = random.Random(name)
    for _ in range(40):
        assert np.array_equal(sliced.mask, plain.mask)
        going_on = sorted(allowed(plain, model.n_vocab) - model.eog_ids)
        if not going_on:
            break
        token = rng.choice(going_on)
        for matcher in (sliced, plain):
            matcher.advance(token)
            assert matcher.error is None
