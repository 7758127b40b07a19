"""Values of arguments that are written as text, by the types of a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import lines_run

from offgrid.chat.arguments import (
    parse_value,
    python_source,
    read_json,
    types_of,
    value_of_tags,
    write_json,
)


def value(text: str, schema: Any) -> Any:
    definitions = {
        "text": {"type": "string"},
        "loop": {"$ref": "#/$defs/loop"},
        "tree": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "integer"}]},
    }
    root = {"type": "object", "properties": {"a": schema}, "$defs": definitions}
    return parse_value(text, types_of(root)["a"])


@pytest.mark.parametrize("text", ["7", "true", "null", "", " x ", '"a"', "[1]", "{}", "None", "\n"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"}, {"type": ["string"]}, {"enum": ["a", "7"]}, {"const": "x"},
        {"$ref": "#/$defs/text"}, {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/text"}]},
        {"allOf": [{"type": "string"}, {"minLength": 1}]}, {"oneOf": [{"const": "7"}]},
    ],
)  # fmt: skip
def test_a_string_stays_as_it_is(text: str, schema: Any) -> None:
    assert value(text, schema) == text


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "integer"}, "7", 7), ({"type": "integer"}, " -7\n", -7),
        ({"type": "integer"}, "7.0", 7), ({"type": "integer"}, "7.5", "7.5"),
        ({"type": "integer"}, "seven", "seven"), ({"type": "integer"}, "true", "true"),
        ({"type": "number"}, "7", 7), ({"type": "number"}, "0.5", 0.5),
        ({"type": "number"}, "NaN", "NaN"), ({"type": "number"}, "1e999", "1e999"),
        ({"type": "boolean"}, "true", True), ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "1", "1"), ({"type": "null"}, "None", None),
        ({"type": "object"}, "{'a': [True, None]}", {"a": [True, None]}),
        ({"type": "object"}, '{"a": "\\u00e9"}', {"a": "é"}), ({"type": "object"}, "[1]", "[1]"),
        ({"type": "array"}, "(1, 'x')", [1, "x"]), ({"type": "array"}, "[1", "[1"),
        ({"type": "array"}, "[" * 5000, "[" * 5000), ({"type": "object"}, "{1, 2}", "{1, 2}"),
        ({"type": "array"}, r"['a\d']", ["a\\d"]),
        ({"type": ["string", "null"]}, "null", None), ({"type": ["string", "null"]}, "x", "x"),
        ({"type": ["integer", "string"]}, "7", 7), ({"type": ["integer", "string"]}, "7a", "7a"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        ({"enum": [1, 2]}, "2", 2), ({"enum": [None, True]}, "true", True), ({"const": 3}, "3", 3),
        ({"$ref": "#/$defs/tree"}, "3", 3), ({"$ref": "#/$defs/loop"}, "x", "x"),
        ({"$ref": "#/$defs/missing"}, "3", 3), ({}, "3", 3), ({}, "x", "x"), (True, "[3]", [3]),
        ({"anyOf": [{}, {"type": "string"}]}, "3", 3),
    ],
)  # fmt: skip
def test_a_value_has_a_type_of_its_schema(schema: Any, text: str, expected: Any) -> None:
    found = value(text, schema)
    assert (found, type(found)) == (expected, type(expected))


def test_properties_come_from_all_parts_of_a_schema() -> None:
    schema = {
        "allOf": [{"properties": {"a": {"type": "integer"}}}, {"$ref": "#/$defs/more"}],
        "$defs": {"more": {"properties": {"b": {"type": "string"}}, "anyOf": [{"$ref": "#"}]}},
    }
    assert types_of(schema) == {"a": {"integer"}, "b": {"string"}}
    assert types_of(None) == types_of({"properties": 3}) == {}


def test_schemas_that_refer_to_each_other_are_followed_once() -> None:
    names = [f"n{n}" for n in range(60)]
    refs = [{"$ref": f"#/$defs/{name}"} for name in names]
    schema = {"properties": {"a": refs[0]}, "$defs": {name: {"anyOf": refs} for name in names}}
    assert types_of(schema)["a"] == frozenset()
    assert types_of({**schema, "anyOf": refs}).keys() == {"a"}


def test_a_limited_number_of_schemas_is_looked_at() -> None:
    """Each property refers to the same large schema."""

    def schema(number: int) -> dict[str, Any]:
        kinds = [{"type": "integer"}, *({"type": "string"} for _ in range(200))]
        properties = {f"p{n}": {"$ref": "#/$defs/large"} for n in range(number)}
        return {"properties": properties, "$defs": {"large": {"anyOf": kinds}}}

    few, many = (lines_run(lambda n=number: types_of(schema(n))) for number in (100, 1000))
    assert many < 2 * few
    found = types_of(schema(1000))
    assert found["p0"] == {"integer", "string"}
    assert found["p999"] is None


def test_the_schemas_of_each_tag_are_limited() -> None:
    kinds = [{"type": "integer"}, *({"type": "object"} for _ in range(20_000))]
    text = "".join(f"~<x{n}>7~</x{n}>" for n in range(100))

    def read(number: int) -> Any:
        return value_of_tags(text, "~", {"properties": {"a": {"anyOf": kinds[:number]}}}, "a")

    assert read(20_000) == read(1) == {f"x{n}": 7 for n in range(100)}
    few, many = (lines_run(lambda n=number: read(n)) for number in (200, 20_000))
    assert many < 3 * few


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6,
))  # fmt: skip
def test_json_and_python_say_the_same(written: Any) -> None:
    assert parse_value(json.dumps(written), None) == written
    if isinstance(written, (dict, list)):
        kind = frozenset(("object", "array"))
        assert parse_value(str(written), kind) == written


@given(st.text("\\abdnx{}'\"\n", max_size=12))
def test_python_source_keeps_what_python_knows(text: str) -> None:
    source = python_source(repr(text))
    assert source == repr(text)
    # What Python does not know stands for itself.
    assert eval(python_source(r"'\d\\d\.'")) == r"\d\d\."


def test_numbers_that_json_has_not_are_refused() -> None:
    for text in ("NaN", "-Infinity", "[1e400]"):
        with pytest.raises(ValueError, match=text.strip("[]")):
            read_json(text)
    with pytest.raises(ValueError, match="deep"):
        read_json("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(float("inf"))


def test_half_of_a_surrogate_pair_is_escaped() -> None:
    assert write_json("é\ud83d") == r'"\u00e9\ud83d"'
    assert write_json("é") == '"é"'


TAGS = {
    "properties": {
        "a": {
            "type": "object",
            "properties": {
                "s": {"type": "string"}, "n": {"type": "integer"},
                "l": {"type": "array", "items": {"type": "string"}},
            },
        },
        "s": {"type": "string"},
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("a", "~<s>7~</s>~<n>7~</n>", {"s": "7", "n": 7}),
        ("a", "~<l>~<item>7~</item> ~<item>x~</item>~</l>", {"l": ["7", "x"]}),
        ("a", "~<x>7~</x>", {"x": 7}), ("a", "~<a>~<a>b~</a>~</a>", {"a": {"a": "b"}}),
        ("a", '{"s": "7"}', {"s": "7"}), ("a", "", {}), ("a", "~<l>~</l>", {"l": []}),
        ("b", "~<item>1~</item>", [1]), ("a", "~<item>1~</item>", {"item": 1}),
        ("s", "7", "7"), ("b", "7", 7), ("b", "x", "x"),
        # No tags, or wrong ones.
        ("s", "~<b", "~<b"), ("a", "~<s>7", "~<s>7"), ("a", "~<s>7~</n>", "~<s>7~</n>"),
        ("a", "~</s>", "~</s>"), ("a", "x~<s>7~</s>", "x~<s>7~</s>"),
        ("a", "~<s>7~</s>x", "~<s>7~</s>x"), ("a", "~<s>" * 200, "~<s>" * 200),
    ],
)  # fmt: skip
def test_objects_and_lists_in_tags(key: str, text: str, expected: Any) -> None:
    found = value_of_tags(text, "~", TAGS, key)
    assert (found, type(found)) == (expected, type(expected))


def test_alternatives_with_different_types_of_a_property_allow_all_of_them() -> None:
    branches = [{"properties": {"a": {"type": kind}}} for kind in ("string", "integer")]
    types = types_of({"anyOf": branches})
    assert types == {"a": frozenset({"string", "integer"})}
    assert parse_value("5", types["a"]) == 5
    assert parse_value("five", types["a"]) == "five"
    assert types_of({"anyOf": [*branches, {"properties": {"a": {}}}]}) == {"a": None}
