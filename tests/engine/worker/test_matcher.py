"""Matchers with the starter's vocabulary: masks against a naive reference, and what they allow."""

from __future__ import annotations

import json
import random
import re
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from matchers import accepts, allowed, make
from schemas import odd_schema

from offgrid.engine.worker import grammars as module
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Masks, Matcher
from offgrid.errors import InvalidParameter

LOAD = {"ctx_size": 64, "parallel": 1}


@pytest.fixture(scope="module")
def grammars(loaded: Model) -> Grammars:
    return Grammars(loaded)


@pytest.fixture(scope="module")
def pieces(loaded: Model) -> list[bytes]:
    return [loaded.piece(token) for token in range(loaded.n_vocab)]


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


def test_control_tokens_are_not_text(grammars: Grammars, model: Model) -> None:
    """Control tokens of the template are banned even where any text is allowed."""
    matcher = make(grammars, "regex", "(?s:.)*")
    found = allowed(matcher, model.n_vocab)
    assert found.isdisjoint(set(model.control_ids) - model.eog_ids)
    assert found >= model.eog_ids
    assert len(found) > model.n_vocab - 300


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


@pytest.mark.slow
def test_odd_schemas_are_satisfied_or_refused(grammars: Grammars, pieces: list[bytes]) -> None:
    complete, refused = odd_answers(grammars, pieces, range(60))
    assert complete > 120
    assert 5 < refused < 30


@pytest.mark.slow
def test_thousands_of_odd_schemas(grammars: Grammars, pieces: list[bytes]) -> None:
    """The default run covers 60 of them."""
    odd_answers(grammars, pieces, range(1_000, 4_000))


def test_a_step_that_takes_too_long_ends_the_matcher(
    grammars: Grammars, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = make(grammars, "regex", "[a-z]+")
    monkeypatch.setattr("offgrid.engine.worker.matcher.STEP_SECONDS", -1.0)
    matcher.advance(min(allowed(matcher, model.n_vocab)))
    assert matcher.error == "a step takes too long"


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


@pytest.mark.parametrize("hard", [False, True])
def test_a_matcher_goes_back_to_where_it_was(grammars: Grammars, loaded: Model, hard: bool) -> None:
    """Also from the end of the grammar, and on another thread if it is hard."""
    rng, masks = random.Random(7), Masks()
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
    for kind, source in [("regex", "(foo|bar)+baz"), ("json_schema", schema)]:
        matcher = make(grammars, kind, source)
        seen = [allowed(matcher, loaded.n_vocab)]
        back = 0
        for _ in range(200):
            tokens = sorted(seen[-1] - loaded.eog_ids)
            if not tokens or (len(seen) > 1 and rng.random() < 0.2):
                count = rng.randrange(1, len(seen))
                matcher.hard = hard
                masks.rewind(matcher, count)
                masks.wait([matcher], 60.0)
                del seen[-count:]
                back += 1
            else:
                matcher.advance(rng.choice(tokens))
                seen.append(allowed(matcher, loaded.n_vocab))
            assert matcher.ready
            assert matcher.error is None
            assert allowed(matcher, loaded.n_vocab) == seen[-1]
            assert matcher.accepting == bool(seen[-1] & loaded.eog_ids)
        assert back > 10
