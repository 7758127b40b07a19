"""JSON schemas of fields that are checked by hand, because their types say less.

For the OpenAPI document; tests hold them against the checks.
"""

from __future__ import annotations

from typing import Any

from offgrid.api.schema import completions, embeddings
from offgrid.api.schema.fields import MAX_BIAS_TEXT, MAX_BIASES, MAX_STOP_LENGTH, SEED_RANGE

Schema = dict[str, Any]

TOKENS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
    "minItems": 1,
}
SEED: Schema = {"type": "integer", "minimum": SEED_RANGE[0], "maximum": SEED_RANGE[1]}

_BIAS: Schema = {"anyOf": [{"type": "number", "minimum": -100, "maximum": 100}, {"const": False}]}
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


def stop(max_stops: int) -> Schema:
    """``stop``, of which there may be more in one endpoint than in the other."""
    text = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
    return {"anyOf": [text, {"type": "array", "items": text, "maxItems": max_stops}]}


def _texts_or_tokens(text: Schema, most: int) -> Schema:
    many = {"type": "array", "items": {"anyOf": [text, TOKENS]}, "minItems": 1, "maxItems": most}
    return {"anyOf": [text, TOKENS, many]}


PROMPT = _texts_or_tokens({"type": "string"}, completions.MAX_PROMPTS)
INPUT = _texts_or_tokens({"type": "string", "minLength": 1}, embeddings.MAX_INPUTS)
