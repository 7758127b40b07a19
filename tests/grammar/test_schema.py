"""Checks and changes of JSON schemas before they are compiled; no model is needed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reference_schema import Naive
from schemas import tangled_schema
from variants import few
from work import lines_run

from offgrid.grammar.document import Document, SchemaError
from offgrid.grammar.pattern import repetition
from offgrid.grammar.satisfiable import forbid_endless
from offgrid.grammar.schema import MAX_PATTERNS, parse_schema

NEXT = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]}
ENDLESS = {"$ref": "#/$defs/n"}
DEFS = {"$defs": {"n": NEXT}}


def refusal(schema: Any) -> str:
    with pytest.raises(SchemaError) as error:
        parse_schema(schema if isinstance(schema, str) else json.dumps(schema))
    return error.value.place + str(error.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": "string"}}, "at /properties/a: a schema must be an object"),
        ({"properties": {"a": {"properties": []}}}, "at /properties/a: properties must be"),
        ({"items": {"type": "text"}}, "at /items: Invalid type: text"),
        ({"items": {"type": 5}}, "at /items: type must be a name"),
        ({"anyOf": [{}, {"minLength": "é" * 200}]}, "at /anyOf/1: minLength must be a whole"),
        ({"maxItems": -1}, "at the root: maxItems must be"),
        ({"items": {"minimum": 1e299, "maximum": 1e300}}, "at /items: minimum is too large"),
        ({"items": {"exclusiveMaximum": -(10**19)}}, "at /items: exclusiveMaximum is too large"),
        ({"minLength": 1e308}, "at the root: minLength must be"),
        ({"required": "a"}, "at the root: required must be a list"),
        ({"enum": "a"}, "at the root: enum must be a list"),
        ({"oneOf": {}}, "at the root: oneOf must be a list of schemas"),
        ({"pattern": ["a"]}, "at the root: pattern must be a string"),
        ({"pattern": "a\\"}, "at the root: a pattern ends in a backslash"),
        ({"items": {"pattern": "[]"}}, "at /items: a pattern has an empty class"),
        ({"items": {"pattern": "^a\\x01$"}}, "at /items: a pattern asks for a control character"),
        ({"pattern": "^[\\u{7f}]"}, "at the root: a pattern asks for a control character"),
        ({"patternProperties": {"[": {}}}, "at the root: a pattern does not end"),
        ({"items": {"format": "iri"}}, "at /items: Unknown format: iri"),
        ({"$defs": {"a/b~": {"not": {"type": "null"}}}}, "at /$defs/a~1b~0: unsupported keywords"),
        ({"$schema": "http://json-schema.org/draft-04/schema#",
          "items": {"if": {"type": "null"}, "then": False}},
         "at /items: unsupported keywords"),
        ({"$ref": "#/nowhere"}, "at the root: $ref #/nowhere points to nothing"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "at /items: $ref file:///etc/passwd points"),
        ({"items": {"$ref": "#x"}}, "at /items: $ref #x points to nothing"),
        ({"$ref": 5}, "at the root: $ref must be a string"),
        ({"properties": {"a": {"$id": "http://x/a", "$ref": "#/$defs/b"}}},
         "at /properties/a: $id in a schema"),
        ({"$ref": "#/x/y", "x": {"y": {"type": "integer", "multipleOf": 99_999_999}}},
         "at /x/y: multipleOf makes more"),
        ({"prefixItems": [{}], "items": [{}]}, "at the root: items must be a schema"),
        ({"items": {"const": 9007199254740993}}, "at /items: const and enum"),
        ({"items": {"enum": [{"a": ["\x01"]}]}}, "at /items: control characters"),
        ({"items": {"const": "\ud800"}}, "at /items/const: it contains an unpaired surrogate"),
        ('{"items":{"maximum":1e999}}', "at /items/maximum: a number is too large"),
        ('{"const":NaN}', "a number in it is not finite"),
        ('{"const":' + "9" * 5000 + "}", "a number in it is not finite, or too long"),
        ({"items": {"type": "object", "minProperties": 2}}, "at /items: minProperties may"),
        ({"enum": [{"a": i} for i in range(1100)]}, "at the root: it has more than 1000 objects"),
        ({"anyOf": [{"type": "object", "required": [str(i)]} for i in range(1100)]},
         "at the root: it has more than 1000"),
        ('{"items":' * 300 + "{}" + "}" * 300, "at /items/items/"),
        ('{"items":' * 20_000 + "{}" + "}" * 20_000, "nested too deeply"),
        ({"description": "x" * 270_000}, "it has 270019 bytes, the maximum is 262144"),
        ({"anyOf": [{}], "$ref": "#/anyOf/" + "9" * 5000}, "points to nothing"),
    ],
)  # fmt: skip
def test_refused_schemas_and_the_named_places(schema: Any, message: str) -> None:
    assert message in refusal(schema)
    assert len(refusal(schema)) < 500


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
         "at /properties/a: no value can satisfy it: it requires itself"),
        ({**ENDLESS, **DEFS}, "at /$defs/n/properties/a: no value"),
        ({"anyOf": [ENDLESS, False], **DEFS}, "at /$defs/n/properties/a: no value"),
        ({"oneOf": [ENDLESS, False], **DEFS}, "at /$defs/n/properties/a: no value"),
        ({"type": "array", "items": ENDLESS, "minItems": 1, **DEFS}, "/$defs/n/properties/a"),
        ({"type": "array", "prefixItems": [{}, ENDLESS], "minItems": 2, **DEFS}, "/$defs/n"),
        ({"type": "array", "items": False, "minItems": 1}, "at /items: unsatisfiable"),
        ({"type": "object", "allOf": [{"properties": {"a": {"$ref": "#"}}}, {"required": ["a"]}]},
         "at /allOf/0/properties/a: no value"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
          "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "at /properties/a: no value"),
        ({"type": "object", "required": ["a"], "properties": {"a": False}},
         "at /properties/a: unsatisfiable"),
        ({"type": "object", "required": ["a"], "additionalProperties": False},
         "at /additionalProperties: unsatisfiable"),
        ({"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}},
         "at /additionalProperties: no value"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "at the root: unsatisfiable"),
        ({"enum": []}, "at the root: unsatisfiable"),
        ({"anyOf": []}, "at /anyOf: unsatisfiable"),
        ({"$ref": "#"}, "at the root: it refers only to itself"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}},
         "at /properties/b: it refers only to itself"),
        ({"allOf": [{"$ref": "#"}]}, "at /allOf/0: it refers only to itself"),
    ],
)  # fmt: skip
def test_schemas_without_an_end(schema: Any, message: str) -> None:
    assert message in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "required": ["kids"], "properties": {
            "kids": {"type": "array", "items": {"$ref": "#"}}}},
        {"anyOf": [ENDLESS, {"type": "null"}], **DEFS},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}},
         "enum": [{"a": 1}]},
        {"required": ["a"], "properties": {"a": {"$ref": "#"}}},  # satisfied by non-objects
        {"type": "object", "properties": {"a": {"$ref": "#"}},
         "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    ],
)  # fmt: skip
def test_schemas_with_an_end(schema: Any) -> None:
    parse_schema(json.dumps(schema))


def test_references_are_found_however_they_are_written() -> None:
    found = parse_schema(json.dumps({
        "$id": "http://example.com/root.json#",
        "prefixItems": [{"$ref": ref} for ref in (
            "#/$defs/a%25b", "#/%24defs/a~1b~0", "#name", "#old", "http://example.com/root.json#name",
        )],
        "$defs": {"a%b": {}, "a/b~": {}, "x": {"$anchor": "name"}, "y": {"$id": "#old"}},
    }))  # fmt: skip
    assert len(found["prefixItems"]) == 5


def test_schemas_are_rewritten_with_the_same_meaning_for_the_compiler() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "prefixItems": [{}], "additionalItems": False, "uniqueItems": False,
        "format": "password", "maxLength": 3.0, "pattern": "^[[&]$",
        "minimum": -(10**30), "maximum": 2**63 - 1,
        "properties": {"n": {"exclusiveMinimum": 9, "maximum": 9.5},
                       "m": {"exclusiveMinimum": 9007199254740993}},
    }  # fmt: skip
    result = parse_schema(json.dumps(schema))
    assert result == {
        "prefixItems": [{}], "maxLength": 3, "pattern": "^[\\[\\&]$",
        "minimum": -9e18, "maximum": 9e18,
        "properties": {"n": {"minimum": 9.0001, "maximum": 9.5},
                       "m": {"exclusiveMinimum": 9007199254740994}},
    }  # fmt: skip


def references(count: int, make: Any) -> dict[str, Any]:
    return {"$ref": "#/$defs/0", "$defs": {str(i): make(i) for i in range(count)}}


def objects(count: int, **schema: Any) -> dict[str, Any]:
    """A schema of an object with ``count`` required properties."""
    return {"type": "object", "required": [f"p{i}" for i in range(count)], **schema}


def step(number: int) -> dict[str, Any]:
    return objects(1, properties={"p0": {"$ref": f"#/$defs/{number}"}})


TANGLED = {
    "each refers to all others": references(80, lambda i: {
        "allOf": [{"$ref": f"#/$defs/{j}"} for j in range(i + 1, 80)]}),
    "each may be two others": references(450, lambda i: {
        "anyOf": [{"$ref": f"#/$defs/{(i + k) % 450}"} for k in (1, 7)]}),
    "a ring": references(400, lambda i: step((i + 1) % 400)),
    "a chain that ends at its head": {
        **objects(400, properties={f"p{i}": {"$ref": f"#/$defs/{i}"} for i in range(400)}),
        "$defs": {"0": {}, **{str(i): step(i - 1) for i in range(1, 400)}}},
    "alternatives of which many are needed": objects(900, allOf=[
        {"anyOf": [{"required": [f"p{i}"]} for i in range(400)]}] * 4),
    "many names and many parts": objects(2_000, allOf=[{}] * 2_000),
    "many names and many alternatives": objects(2_000, anyOf=[
        {"type": "object", "additionalProperties": False}] * 900),
    "the same large part again and again": {
        "anyOf": [{"allOf": [{"$ref": "#/$defs/0"}, {"type": "object"}]}] * 400,
        "$defs": {"0": objects(400, properties={f"p{i}": {"type": "null"} for i in range(400)})}},
    "many items": {"type": "array", "minItems": 10**9, "prefixItems": [{"type": "null"}] * 1_000},
    "many levels, each referred to": {
        "$defs": {str(i): {"$ref": "#/x" + "/items" * i} for i in range(100)},
        "x": json.loads('{"items":' * 100 + json.dumps(
            {"properties": {f"p{i}": {} for i in range(5_000)}}) + "}" * 100)},
    "long pointers": {"$defs": {"a": {"b": {}}},
                      "allOf": [{"$ref": "#/$defs/a/b" + "/" * 40}] * 3_000},
    "pointer to nothing": {"$ref": "#" + "/a" * 60_000},
    "a few patterns under many allOf": {
        "properties": {f"a{i}": {"pattern": f"{i % 3}"} for i in range(240)},
        "$defs": {f"p{i}": {"allOf": [{"$ref": "#"}]} for i in range(1_000)}},
    "many patterns under many allOf": {
        "pattern": "a",
        "properties": {f"a{i}": {"properties": {"x": {"pattern": f"{i}"}}} for i in range(240)},
        "$defs": {f"p{i}": {"allOf": [{"$ref": "#"}]} for i in range(1_000)}},
    "ten patterns under many allOf": {
        "pattern": "a",
        "properties": {f"a{i}": {"properties": {f"x{i % 24}": {"pattern": f"{i // 24}"}}}
                       for i in range(216)},
        "$defs": {f"p{i}": {"pattern": "0", "allOf": [{"$ref": "#"}]} for i in range(1_000)}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", few(4, TANGLED))
def test_the_work_of_the_checks_grows_with_the_text_only(name: str) -> None:
    text = json.dumps(TANGLED[name])
    assert len(text) < 262_144
    assert lines_run(lambda: parse_schema(text), SchemaError) < 60 * len(text)


def test_a_pattern_is_searched_once() -> None:
    class Counted(str):
        searched = 0

        def find(self, text: str, start: int = 0) -> int:  # type: ignore[override]
            end = str.find(self, text, start)
            self.searched += (end if end >= 0 else len(self)) - start
            return end

        def index(self, text: str, start: int = 0) -> int:  # type: ignore[override]
            return self.find(text, start)

    pattern = Counted("\\u{" * 1_000)
    assert repetition(pattern) == 1_000 * 2
    assert pattern.searched <= len(pattern)


@pytest.mark.slow
def test_unsatisfiable_schemas_match_the_definition() -> None:
    compare_with_definition(range(120))


@pytest.mark.slow
def test_unsatisfiable_schemas_match_the_definition_at_length() -> None:
    """The default run covers 120 of them."""
    compare_with_definition(range(120, 600))
    compare_with_definition(range(10_000, 13_000))


def compare_with_definition(seeds: range) -> None:
    for seed in seeds:
        schema, naive = tangled_schema(seed), Naive(tangled_schema(seed))
        if naive.most_patterns() > MAX_PATTERNS:
            assert "allOf combines more than" in refusal(schema), seed
            continue
        try:
            ending = {id(node) for node in naive.ending()}
        except RecursionError:
            assert refusal(schema).endswith("it refers only to itself"), seed
            continue
        if id(naive.root) not in ending:
            assert "no value can satisfy it" in refusal(schema), seed
        else:
            document = Document(schema)
            document.link()
            forbid_endless(document)
            for node in naive.all():
                if id(node) not in ending:
                    kept = {key: value for key, value in node.items() if key != "$ref"}
                    node.clear()
                    node.update({"enum": [], **kept})
            assert schema == naive.root, seed
