"""Every schema in a grammar has been checked, wherever it comes from."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from offgrid.engine.protocol.commands import Submit
from offgrid.engine.protocol.frames import encode_frame, read_command
from offgrid.engine.protocol.requests import GenerationRequest, Grammar
from offgrid.errors import InvalidParameter
from offgrid.grammar import checked as module
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.options import JSON_OPTIONS

PERSON = {"properties": {"name": {"type": "string", "format": "password"}}}
ADAPTED = {"properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)], ids=["object", "text"])
def test_the_checked_schema_is_compiled(schema: Any) -> None:
    answer = CheckedSchema(schema, "field")
    assert json.loads(answer.text) == {**ADAPTED, "x-guidance": JSON_OPTIONS}
    assert answer.schema == ADAPTED
    arguments = CheckedSchema(schema, "field", arguments=True)
    assert json.loads(arguments.text) == {
        "type": "object", **ADAPTED, "x-guidance": JSON_OPTIONS,
    }  # fmt: skip
    assert PERSON["properties"]["name"]["format"] == "password"  # a copy


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"uniqueItems": True}}}, "at /properties/a: unsupported keywords"),
        ({"x-guidance": {"lenient": True}}, "x-guidance is not supported"),
        ("[1]", "a schema must be an object"),
        ("{", "it is not valid JSON"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
    ids=["unsupported", "options", "list", "malformed", "deep"],
)
def test_construction_checks_the_schema(schema: Any, words: str) -> None:
    with pytest.raises(InvalidParameter, match=f"The JSON schema cannot be used: .*{words}") as ex:
        CheckedSchema(schema, "field")
    assert ex.value.param == "field"


def test_a_schema_from_the_pipe_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = Grammar.of_schema(CheckedSchema(PERSON, "field"))
    command = Submit(1, GenerationRequest(grammar=grammar))
    frame = encode_frame(command)
    assert frame.count(b"properties") == 1
    monkeypatch.delattr(module, "parse_schema")
    assert read_command(io.BytesIO(frame)) == command
