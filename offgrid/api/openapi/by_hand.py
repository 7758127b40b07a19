"""JSON schemas of fields that are checked by hand, because their types allow more.

For the OpenAPI document; tests compare them with the checks.
"""

from __future__ import annotations

from typing import Any

import msgspec

from offgrid.api import embeddings, score
from offgrid.api.completions import request as completions
from offgrid.api.decisions import request as decisions
from offgrid.api.fields.common import MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS
from offgrid.api.fields.foreign import NO_LIMIT
from offgrid.api.fields.sampling import MAX_BIAS_TEXT, MAX_BIASES, SEED_RANGE, Breakers
from offgrid.api.ollama.request import OPTIONS
from offgrid.api.responses import items as response_items
from offgrid.api.responses.hosted import HOSTED

Schema = dict[str, Any]

TOKENS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
    "minItems": 1,
}
SEED: Schema = {"type": "integer", "minimum": SEED_RANGE[0], "maximum": SEED_RANGE[1]}

_BIAS: Schema = {
    "anyOf": [
        {"type": "number", "minimum": -100, "maximum": 100},
        {"const": False},
        {"type": "null"},  # as if the token was not there
    ]
}
_BIASED_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_BIAS_TEXT}
LOGIT_BIAS: Schema = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": MAX_BIASES,
            "propertyNames": {"minLength": 1, "maxLength": MAX_BIAS_TEXT},
            "additionalProperties": _BIAS,
        },
        {
            "type": "array",
            "maxItems": MAX_BIASES,
            "items": {
                "type": "array",
                "prefixItems": [{"anyOf": [TOKENS["items"], _BIASED_TEXT]}, _BIAS],
                "minItems": 2,
                "maxItems": 2,
            },
        },
    ]
}


_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
STOPS: Schema = {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}
STOP: Schema = {"anyOf": [_STOP, STOPS]}


def limit(least: int) -> Schema:
    """Return the schema of a limit of the answer; endpoints differ in the smallest one."""
    number = {"type": "integer", "minimum": least, "maximum": MAX_TOKENS}
    return {"anyOf": [number, {"enum": [*NO_LIMIT]}]}


BREAKERS: Schema = {"anyOf": [msgspec.json.schema(Breakers), {"type": "string"}]}
"""Sequence breakers: a list, or its JSON text."""


def _texts_or_tokens(text: Schema, most: int) -> Schema:
    many = {"type": "array", "items": {"anyOf": [text, TOKENS]}, "minItems": 1, "maxItems": most}
    return {"anyOf": [text, TOKENS, many]}


_IMAGES: Schema = {
    "type": "object",
    "properties": {
        "prompt_string": {"type": "string"},
        "multimodal_data": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["prompt_string"],
}
_PIECES: Schema = {"anyOf": [{"type": "string"}, TOKENS["items"]]}
_NATIVE_ITEM: Schema = {
    "anyOf": [
        *_PIECES["anyOf"],
        _IMAGES,
        {"type": "array", "items": _PIECES, "minItems": 1},
    ]
}
NATIVE_PROMPT: Schema = {
    "description": "A text; token ids, with texts between them or without; an object with a text "
    "and images; or a list of these.",
    "anyOf": [
        {"type": "string"},
        _IMAGES,
        {"type": "array", "minItems": 1, "items": _NATIVE_ITEM},
    ],
}
PROMPT = _texts_or_tokens({"type": "string"}, completions.MAX_PROMPTS)
_SCORED: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {
                "content": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                    "minItems": 1,
                }
            },
            "required": ["content"],
        },
    ]
}
_SIDE: Schema = {
    "anyOf": [
        *_SCORED["anyOf"],
        {"type": "array", "items": _SCORED, "minItems": 1, "maxItems": score.MAX_TEXTS},
    ]
}
SIDES = {name: _SIDE for pair in score.NAMES for name in pair}
"""The texts of ``/v1/score``."""
INPUT = _texts_or_tokens({"type": "string", "minLength": 1}, embeddings.MAX_INPUTS)

_ITEM: Schema = {
    "type": "object",
    "description": "Messages, calls, their results, reasoning, references by `id`, and the items of"
    " OpenAI's hosted tools. Items of unknown types without content are left out.",
    "properties": {
        "type": {
            "anyOf": [
                {"enum": [*response_items.TYPES, *sorted(HOSTED)]},
                {"type": "string"},
                {"type": "null"},
            ]
        },
        # Items of other types than messages may have anything here.
        "role": {"description": f"Of a message: {', '.join(response_items.ROLES)}."},
    },
}


def present(least: int) -> Schema:
    """Return the keywords of a list that must have so many items that are not null."""
    return {"contains": {"not": {"type": "null"}}, "minContains": least}


def items(most: int, least: int = 1) -> Schema:
    """Return the schema of a list of items, in which null is left out."""
    limits = {"minItems": least, "maxItems": most, **(present(least) if least else {})}
    return {"type": "array", "items": {"anyOf": [_ITEM, {"type": "null"}]}, **limits}


ITEMS: Schema = {"anyOf": [{"type": "string"}, items(response_items.MAX_ITEMS)]}
_EVIDENCE: Schema = {
    "type": "object",
    "description": "Messages, calls and their results, as in `/v1/responses`; messages may also"
    " contain parts of the type `input_json`.",
    "properties": {
        "type": {"anyOf": [{"enum": [*decisions.ITEM_TYPES]}, {"type": "null"}]},
        "role": {"description": f"Of a message: {', '.join(response_items.ROLES)}."},
    },
}
DECISION_INPUT: Schema = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {"anyOf": [_EVIDENCE, {"type": "null"}]},
            "minItems": 1,
            "maxItems": response_items.MAX_ITEMS,
            **present(1),
        },
    ]
}
TOOLS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "description": "Functions, custom tools, namespaces of both, and a tool search that the"
        " client executes. Tools of other types are left out, and named in `x-offgrid-ignored`.",
        "properties": {"type": {"type": "string"}},
        "required": ["type"],
    },
}
TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "description": "One of the tools by `type` and `name`, or `allowed_tools` with `mode`"
            " and `tools`.",
            "properties": {
                "type": {"enum": ["function", "custom", "tool_search", "allowed_tools"]}
            },
            "required": ["type"],
        },
    ]
}

# Fields for structured output (:mod:`offgrid.api.fields.structured`). Whether the server can follow
# a schema or a grammar is only known when it is compiled.
_STRING: Schema = {"type": "string"}
_SCHEMA: Schema = {"anyOf": [{"type": "object"}, _STRING]}
_CHOICES: Schema = {"type": "array", "items": _STRING, "minItems": 1}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    """Return the schema of an object with these fields; null counts as absent if not required."""
    optional = {
        name: schema if name in required else {"anyOf": [schema, {"type": "null"}]}
        for name, schema in properties.items()
    }
    return {
        "type": "object",
        "properties": optional,
        "required": list(required),
        "additionalProperties": False,
    }


_NAMED_SCHEMA = _object(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "schema": _SCHEMA,
        "description": _STRING,
        "strict": {"type": "boolean"},
    },
    "name",
    "schema",
)
_NOTHING: Schema = {"type": "null"}
STRUCTURED: dict[str, Schema] = {
    "response_format": {
        "anyOf": [
            _object({"type": {"const": "text"}, "json_schema": _NOTHING, "schema": _NOTHING},
                    "type"),
            _object({"type": {"const": "json_object"}, "json_schema": _NOTHING, "schema": _SCHEMA},
                    "type"),
            _object({"type": {"const": "json_schema"}, "json_schema": _NAMED_SCHEMA,
                     "schema": _NOTHING}, "type", "json_schema"),
            _object({"type": {"const": "json_schema"}, "json_schema": _NOTHING,
                     "schema": _SCHEMA}, "type", "schema"),
        ]
    },
    "json_schema": _SCHEMA,
    "grammar": _STRING,
    "grammar_type": {"enum": ["gbnf", "lark"]},
    "regex": _STRING,
    "choice": _CHOICES,
    "structured_outputs": _object(
        {"json": _SCHEMA, "json_object": {"type": "boolean"}, "regex": _STRING, "choice": _CHOICES,
         "grammar": _STRING}
    ),
    "guided_json": _SCHEMA,
    "guided_regex": _STRING,
    "guided_choice": _CHOICES,
    "guided_grammar": _STRING,
}  # fmt: skip

# Ollama's API.
_OPTIONS: Schema = {
    "type": "object",
    "description": "Sampling parameters, `num_predict`, `stop` and others; docs/OLLAMA.md lists "
    "them. Their values are those of /v1/chat/completions.",
    "properties": {name: {} for name in sorted(OPTIONS)},
    "additionalProperties": _NOTHING,  # null is no value, whatever its name
}
OLLAMA_OPTIONS: dict[str, Schema] = {"options": _OPTIONS}
OLLAMA: dict[str, Schema] = {
    "options": _OPTIONS,
    "format": {"anyOf": [{"enum": ["", "json"]}, {"type": "object"}]},
}
OLLAMA_EMBED: dict[str, Schema] = {
    "options": _OPTIONS,
    "input": {
        "anyOf": [
            _STRING,
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "maxItems": embeddings.MAX_INPUTS,
            },
        ]
    },
}
