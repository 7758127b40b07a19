"""A JSON schema, a tool, and the fields for structured output."""

from __future__ import annotations

from support import Json

OBJECT: Json = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL: Json = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": OBJECT, "strict": True},
}
SCHEMA = {"name": "it", "description": "It.", "schema": OBJECT, "strict": True}
GRAMMARS: list[Json] = [
    {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    {"response_format": {"type": "json_object", "schema": OBJECT}},
    {"response_format": {"type": "text"}},
    {"json_schema": OBJECT},
    {"grammar": 'root ::= "a" | "b"', "grammar_type": "gbnf"},
    {"grammar_string": 'root ::= "a" | "b"'},
    {"regex": "[ab]+"},
    {"choice": ["a", "b"]},
    {"structured_outputs": {"choice": ["a", "b"]}},
    {"guided_json": OBJECT},
    {"guided_regex": "[ab]+"},
    {"guided_choice": ["a", "b"]},
    {"guided_grammar": 'root ::= "a" | "b"'},
    {"format": OBJECT},
    {"format": "json"},
]
