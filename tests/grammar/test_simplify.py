"""Keywords that ask for nothing are removed, and the schema still has the same meaning."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from offgrid.grammar.document import Document, SchemaError
from offgrid.grammar.schema import parse_schema
from offgrid.grammar.simplify import MAX_LOOKING_AHEAD, MAX_NAMES, MAX_NAMING, simplify

TEXT = {"type": "string"}
CLOSED = {"type": "object", "properties": {"a": {}, "b": TEXT}, "additionalProperties": False}
RECORD = {"type": "object", "additionalProperties": {"type": "integer"}}

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # of any value
    ({"not": False}, {}),
    ({"not": {"enum": []}}, {}),
    ({"not": {"not": {"title": "x"}}}, {}),
    ({"items": {"not": {"allOf": [{}, False]}}}, {"items": {}}),
    ({"items": {"not": {}}}, {"items": {"enum": []}}),
    ({"if": {"type": "string"}}, {}),
    ({"if": {"type": "string"}, "then": True, "else": {"minLength": 0}}, {}),
    ({"then": TEXT, "else": False}, {}),
    ({"if": {}, "then": TEXT, "else": False}, {"allOf": [TEXT]}),
    ({"if": False, "then": False, "else": TEXT}, {"allOf": [TEXT]}),
    ({"$dynamicAnchor": "n", "$recursiveAnchor": True, "$comment": "c", "deprecated": True},
     {"$anchor": "n", "$comment": "c", "deprecated": True}),
    ({"$dynamicAnchor": "n", "items": {"$ref": "#n"}}, {"$anchor": "n", "items": {"$ref": "#n"}}),
    # of objects
    ({**RECORD, "propertyNames": TEXT}, RECORD),
    ({**RECORD, "propertyNames": {}}, RECORD),
    ({**RECORD, "propertyNames": {"minLength": 0, "minimum": 5, "title": "x"}}, RECORD),
    ({**RECORD, "propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": TEXT}},
     {**RECORD, "$defs": {"n": TEXT}}),
    ({**CLOSED, "dependentRequired": {}, "dependentSchemas": {"a": True}}, CLOSED),
    ({**CLOSED, "dependentRequired": {"a": [], "b": ["b"], "c": ["a"]}}, CLOSED),
    ({**CLOSED, "dependentSchemas": {"c": False}}, CLOSED),
    ({**CLOSED, "dependencies": {"a": [], "b": {}, "c": ["a"]}}, CLOSED),
    ({**CLOSED, "required": ["a"], "dependentRequired": {"b": ["a"]}},
     {**CLOSED, "required": ["a"]}),
    ({**CLOSED, "required": ["a"], "dependentRequired": {"a": ["b"]}},
     {**CLOSED, "required": ["a", "b"]}),
    ({**CLOSED, "required": ["a"], "dependentSchemas": {"a": {"required": ["b"]}}},
     {**CLOSED, "required": ["a"], "allOf": [{"required": ["b"]}]}),
    ({**RECORD, "unevaluatedProperties": False}, RECORD),
    ({"properties": {"a": TEXT}, "unevaluatedProperties": False},
     {"properties": {"a": TEXT}, "additionalProperties": False}),
    ({"anyOf": [CLOSED], "unevaluatedProperties": {}}, {"anyOf": [CLOSED]}),
    ({"properties": {"a": TEXT}, "unevaluatedProperties": True},
     {"properties": {"a": TEXT}, "additionalProperties": True}),
    ({"minProperties": 0, "properties": {"a": {}}}, {"properties": {"a": {}}}),
    ({**CLOSED, "required": ["a"], "minProperties": 1, "maxProperties": 2},
     {**CLOSED, "required": ["a"]}),
    ({"type": "string", "propertyNames": False, "dependentRequired": {"a": ["b"]}}, TEXT),
    # names of properties
    ({**RECORD, "propertyNames": {"enum": ["a", "b"]}, "required": ["a"]},
     {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}},
      "required": ["a"], "additionalProperties": False}),
    ({"propertyNames": {"anyOf": [{"const": "a"}, {"enum": ["b", "a", 1]}]}},
     {"properties": {"a": True, "b": True}, "additionalProperties": False}),
    ({**CLOSED, "propertyNames": {"const": "b"}},
     {"type": "object", "properties": {"a": False, "b": TEXT}, "additionalProperties": False}),
    ({"propertyNames": {"type": "integer"}}, {"properties": {}, "additionalProperties": False}),
    ({**RECORD, "propertyNames": {"pattern": "^[ab]$"}},
     {"type": "object", "patternProperties": {"^[ab]$": {"type": "integer"}},
      "additionalProperties": False}),
    ({"properties": {"a": {}, "ab": {}}, "propertyNames": {"type": "string", "minLength": 2}},
     {"properties": {"a": False, "ab": {}}, "patternProperties": {"^(?s:.){2,}$": True},
      "additionalProperties": False}),
    ({"propertyNames": {"maxLength": 1}, "additionalProperties": False},
     {"additionalProperties": False}),
    ({"propertyNames": {"pattern": "^(?!a)"}},
     {"patternProperties": {"^(?:[^a](?s:.)*)?$": True}, "additionalProperties": False}),
    # of arrays
    ({"minContains": 3, "maxContains": 1}, {}),
    ({"contains": TEXT, "minContains": 0}, {}),
    ({"contains": False, "minContains": 0, "maxContains": 0}, {}),
    ({"contains": {}}, {"minItems": 1}),
    ({"contains": {}, "minContains": 2, "maxContains": 3, "minItems": 1, "maxItems": 9},
     {"minItems": 2, "maxItems": 3}),
    ({"items": TEXT, "contains": TEXT, "minContains": 2}, {"items": TEXT, "minItems": 2}),
    ({"uniqueItems": False}, {}),
    ({"uniqueItems": True, "maxItems": 1}, {"maxItems": 1}),
    ({"type": "string", "uniqueItems": True, "contains": False}, TEXT),
    ({"enum": ["a", {"b": []}], "uniqueItems": True}, {"enum": ["a", {"b": []}]}),
    ({"items": TEXT, "unevaluatedItems": False}, {"items": TEXT}),
    ({"prefixItems": [TEXT], "unevaluatedItems": False}, {"prefixItems": [TEXT], "items": False}),
    ({"allOf": [{"items": TEXT}], "unevaluatedItems": True}, {"allOf": [{"items": TEXT}]}),
]  # fmt: skip
LEAVES: list[Any] = ["", "a", 1, None, True, [], ["a"], ["a", "b"], ["a", 1, "a"], [1] * 4, {}]
NAMES = ("a", "b", "ab", "c")
INSTANCES = [
    *LEAVES,
    *({name: value for name in some} for value in ("x", 5) for n in (1, 2, 3)
      for some in combinations(NAMES, n)),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "simple"), SAME, ids=lambda schema: json.dumps(schema)[:60])
def test_the_meaning_stays(schema: dict[str, Any], simple: dict[str, Any]) -> None:
    result = parse_schema(json.dumps(schema))
    text = json.dumps(result).replace("[[^a]&&[^\\\\x01]]", "[^a]")  # no string has U+0001
    result = json.loads(text)
    assert result == simple
    # Python has another syntax for any character.
    readable = json.loads(json.dumps(result).replace("(?s:.)", "[\\\\s\\\\S]"))
    for instance in INSTANCES:
        wanted = Draft202012Validator(schema).is_valid(instance)
        assert Draft202012Validator(readable).is_valid(instance) == wanted, instance


def schemas(depth: int) -> st.SearchStrategy[Any]:
    """Schemas of the keywords that are rewritten and of those beside them."""
    leaf = st.sampled_from([True, False, {}, TEXT, {"enum": ["a", 1]}, {"const": "b"}, {"not": {}},
                            {"type": "integer"}, {"minLength": 1}, {"type": ["object", "string"]},
                            {"pattern": "^[ab]$"}, {"enum": []}, {"minItems": 0}])  # fmt: skip
    if not depth:
        return leaf
    one = schemas(depth - 1)
    names = st.sampled_from(NAMES)
    some = st.lists(names, max_size=2)
    count = st.integers(0, 3)
    words: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("not", "if", "then", "else", "contains", "propertyNames", "items",
                         "additionalProperties", "unevaluatedProperties", "unevaluatedItems"), one),
        **dict.fromkeys(("anyOf", "allOf", "prefixItems"), st.lists(one, min_size=1, max_size=2)),
        **dict.fromkeys(("minContains", "maxContains", "minItems", "maxItems", "minProperties",
                         "maxProperties"), count),
        **dict.fromkeys(("properties", "dependentSchemas"),
                        st.dictionaries(names, one, max_size=2)),
        "dependentRequired": st.dictionaries(names, some, max_size=2),
        "required": some,
        "uniqueItems": st.booleans(),
        "type": st.sampled_from(["object", "array", "string", ["object", "array"]]),
    }  # fmt: skip
    chosen = st.lists(st.sampled_from([*words]), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: words[key] for key in keys}))


@given(schemas(2))
@example({"contains": {"not": False}, "unevaluatedItems": {"not": True}})
@example({"contains": {"const": "b"}, "minContains": 0, "unevaluatedItems": False})
@example({"propertyNames": {"enum": ["a"]}, "unevaluatedProperties": False})
@example({"propertyNames": {"pattern": "^a"}, "unevaluatedProperties": False})
def test_the_meaning_of_random_schemas_stays(schema: dict[str, Any]) -> None:
    result = json.loads(json.dumps(schema))
    simplify(Document(result))
    if '"unevaluated' in json.dumps(result):
        return  # it is refused: what is evaluated depends on keywords that were removed
    readable = json.loads(
        json.dumps(result).replace("(?s:.)", "[\\\\s\\\\S]").replace("[^]", "[\\\\s\\\\S]")
    )
    before, after = Draft202012Validator(schema), Draft202012Validator(readable)
    for instance in INSTANCES:
        assert after.is_valid(instance) == before.is_valid(instance), (instance, result)


def test_the_number_of_patterns_with_look_aheads_is_limited() -> None:
    for more in (0, 1):
        texts = [f"^(?!a{n})" for n in range(MAX_LOOKING_AHEAD + more)]
        schema = {"properties": {text: {"pattern": text} for text in texts}}
        if more:
            with pytest.raises(SchemaError, match="is the 21st of the schema"):
                parse_schema(json.dumps(schema))
        else:
            parse_schema(json.dumps(schema))


@pytest.mark.parametrize("keyword", ["enum", "anyOf"])
def test_the_names_that_many_schemas_list_are_limited(keyword: str) -> None:
    """A short schema would become a long one: each reference copies the list."""
    each = 1000
    values = [str(n) if keyword == "enum" else {"const": "a"} for n in range(each)]
    for more in (0, 1):
        some = [{"propertyNames": {"$ref": "#/$defs/a"}}] * (MAX_NAMES // each + more)
        schema = {"$defs": {"a": {keyword: values}, "b": {"anyOf": some}}, "type": "object"}
        document = Document(json.loads(json.dumps(schema)))
        if more:
            with pytest.raises(SchemaError, match="list more than"):
                simplify(document)
        else:
            simplify(document)


def test_the_patterns_of_names_beside_properties_are_limited() -> None:
    def schema(patterns: int, times: int) -> Document:
        some = [
            {"propertyNames": {"pattern": f"^a{n % patterns}"}, "properties": {"a0": True}}
            for n in range(times)
        ]
        return Document({"anyOf": some})

    document = schema(MAX_NAMING, 10 * MAX_NAMING)
    assert simplify(document)
    assert document.root["anyOf"][0]["properties"] == {"a0": True}
    assert document.root["anyOf"][1]["properties"] == {"a0": False}
    with pytest.raises(SchemaError, match="has the 51st pattern"):
        simplify(schema(MAX_NAMING + 1, MAX_NAMING + 1))


def test_null_counts_as_absent() -> None:
    schema = {
        "type": "object", "required": None, "$ref": None, "$defs": None, "not": None,
        "additionalProperties": None,
        "properties": {
            "a": {"enum": None, "type": "string", "format": None, "pattern": None},
            "b": {"const": None}, "c": {"type": None, "items": None, "minItems": None},
            "d": {"default": None, "required": False},
        },
    }  # fmt: skip
    assert parse_schema(json.dumps(schema)) == {
        "type": "object",
        "properties": {"a": TEXT, "b": {"const": None}, "c": {}, "d": {"default": None}},
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"not": TEXT},
        {"if": TEXT, "then": {"minLength": 1}},
        {"contains": TEXT},
        {"contains": TEXT, "minContains": 0, "maxContains": 1},
        {"contains": {}, "minContains": -1},
        {"uniqueItems": True},
        {"uniqueItems": True, "maxItems": 2},
        {"propertyNames": {"format": "uuid"}},
        {"propertyNames": {"pattern": "a", "minLength": 2}},
        {"propertyNames": {"pattern": "a\\b"}, "properties": {"a": {}}},
        {"propertyNames": {"enum": ["a"]}, "patternProperties": {"^a": {}}},
        {"propertyNames": {"$ref": "#/propertyNames"}},
        {"dependentRequired": {"a": ["b"]}},
        {"dependentSchemas": {"a": TEXT}},
        {"dependencies": {"a": ["b"]}},
        {"dependencies": {"a": 5}},
        {"anyOf": [{}], "unevaluatedProperties": False},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}, "unevaluatedItems": False},
        {"$dynamicAnchor": "a", "$dynamicRef": "#a"},
        {"$recursiveAnchor": True, "items": {"$recursiveRef": "#"}},
    ],
    ids=json.dumps,
)
def test_keywords_that_ask_for_something_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="unsupported keywords"):
        parse_schema(json.dumps(schema))
