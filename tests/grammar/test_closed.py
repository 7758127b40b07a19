"""Closed objects: which members a model may write, compared with a validator of JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from schemas import composed_schema

from offgrid.grammar.closed import closed
from offgrid.grammar.document import SchemaError
from offgrid.grammar.schema import parse_schema

Json = dict[str, Any]

A: Json = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
B: Json = {"properties": {"b": {"type": "integer"}}}
NODE: Json = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}


def close(schema: Json) -> Json:
    result: Json = json.loads(closed(json.dumps(parse_schema(json.dumps(schema)))))
    return result


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (A, [{"a": 1}, "no object"], [{"a": 1, "x": 1}]),
        ({"type": "object", "properties": {}}, [{}], [{"x": 1}]),
        # At any depth, behind references, and in unions.
        ({"type": "array", "items": {"anyOf": [A, {"type": "null"}]}},
         [[None, {"a": 1}]], [[{"a": 1, "x": 1}]]),
        ({"properties": {"n": {"$ref": "#/$defs/node"}}, "$defs": {"node": NODE}},
         [{"n": {"next": {"next": {}}}}], [{"n": {"next": {"x": 1}}}]),
        ({"properties": {"n": {"allOf": [{"$ref": "#/$defs/node"}], "title": "N"}},
          "$defs": {"node": NODE}}, [{"n": {"next": {}}}], [{"n": {"x": 1}}]),
        ({"additionalProperties": A}, [{"any": {"a": 1}}], [{"any": {"a": 1, "x": 1}}]),
        # Parts that apply together allow each other's members, in whatever way they are combined.
        ({"allOf": [A, B]}, [{"a": 1, "b": 2}, {"a": 1}], [{"a": 1, "x": 1}, {"b": 1}]),
        ({"allOf": [A, {"allOf": [B]}], "properties": {"c": {}}},
         [{"a": 1, "b": 1, "c": 1}], [{"a": 1, "x": 1}]),
        ({"$ref": "#/$defs/a", **B, "$defs": {"a": A}}, [{"a": 1, "b": 1}], [{"a": 1, "x": 1}]),
        ({"properties": {"c": {}}, "anyOf": [A, B]},
         [{"a": 1, "c": 1}, {"b": 1, "c": 1}], [{"b": 1, "x": 1}]),
        ({**A, "anyOf": [{"required": ["a"]}, {"type": "object"}]},
         [{"a": 1}], [{"a": 1, "x": 1}]),
        # A schema is open where it is a part, and closed where it stands alone.
        ({"properties": {"alone": {"$ref": "#/$defs/a"},
                         "part": {"allOf": [{"$ref": "#/$defs/a"}, B]}}, "$defs": {"a": A}},
         [{"alone": {"a": 1}, "part": {"a": 1, "b": 1}}],
         [{"alone": {"a": 1, "b": 1}}, {"part": {"a": 1, "x": 1}}]),
        # Names that match a pattern are described as well.
        ({**B, "patternProperties": {"^x": {"type": "integer"}}},
         [{"b": 1, "x1": 1}], [{"y": 1}, {"x1": "text"}]),
        # A part that forbids other members does not hinder the rest.
        ({"allOf": [{**A, "additionalProperties": False}, {"type": "object"}], "properties": {}},
         [{"a": 1}], [{"a": 1, "x": 1}]),
    ],
)  # fmt: skip
def test_only_described_members(schema: Json, good: list[Any], bad: list[Any]) -> None:
    original, validator = Draft202012Validator(schema), Draft202012Validator(close(schema))
    for value in good:
        assert original.is_valid(value), value
        assert validator.is_valid(value), value
    for value in bad:
        assert not validator.is_valid(value), value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object"}, {"x": 1}),
        ({"type": "object", "required": ["x"]}, {"x": 1}),
        ({**B, "additionalProperties": True}, {"x": 1}),
        ({**B, "additionalProperties": {"type": "integer"}}, {"x": 1}),
        ({"allOf": [{**B, "additionalProperties": True}, A]}, {"a": 1, "x": 1}),
        # Closed, nothing would satisfy these.
        ({**B, "required": ["x"]}, {"x": 1}),
        ({**B, "minProperties": 1, "allOf": [{"required": ["x"]}]}, {"x": 1}),
        ({"properties": {}, "minProperties": 1}, {"x": 1}),
        ({**B, "anyOf": [{"required": ["x"]}, {"required": ["y"]}]}, {"x": 1}),
        ({**B, "const": {"x": 1}}, {"x": 1}),
        ({**B, "enum": [{"x": 1}]}, {"x": 1}),
        ({"allOf": [B, {"patternProperties": {"^x": {}}}]}, {"x": 1}),
    ],
)
def test_objects_that_stay_open(schema: Json, value: Any) -> None:
    assert Draft202012Validator(close(schema)).is_valid(value)


def test_the_order_of_properties_stays() -> None:
    schema = {"properties": {"z": {}, "m": {}}, "allOf": [{"properties": {"c": {}, "a": {}}}]}
    assert list(close(schema)["properties"]) == ["z", "m", "c", "a"]


def test_a_schema_without_open_objects_stays_as_it_is() -> None:
    for schema in ({"type": "object"}, {"type": "string"}, {**A, "additionalProperties": False}):
        assert close(schema) == schema


@pytest.mark.parametrize("seed", range(60))
def test_random_schemas(seed: int) -> None:
    """The closed schema is one that may be compiled, and allows no value that was not allowed."""
    schema = composed_schema(seed)
    try:
        checked = parse_schema(json.dumps(schema))
    except SchemaError:
        return
    parse_schema(json.dumps(close(schema)))
    before, after = Draft202012Validator(checked), Draft202012Validator(close(schema))
    members = ({}, {"a": 1}, {"b": 1}, {"a": 1, "x": 1}, {"a": {"b": 1}}, {"a": {"x": 1}}, [], 1)
    for value in members:
        assert before.is_valid(value) or not after.is_valid(value), value
