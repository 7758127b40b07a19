"""Fields for structured output.

``response_format`` is OpenAI's. The others are for clients of other servers: llama-server's
``grammar`` and ``json_schema``, and vLLM's ``structured_outputs`` with the older ``guided_*``
(https://docs.vllm.ai/en/latest/features/structured_outputs/).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from offgrid.api.fields.body import excess
from offgrid.api.fields.bounds import check_schema
from offgrid.api.fields.messages import missing, one_of, shown, unknown
from offgrid.api.fields.nulls import without_null_keywords
from offgrid.engine.protocol.requests import Grammar
from offgrid.errors import InvalidParameter
from offgrid.grammar.checked import CheckedSchema

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Match white space of one line only: otherwise many empty lines would take quadratic time.
_LARK = re.compile(r"^[^\S\n]*(?:%llguidance\b|start\s*:(?!:))", re.MULTILINE)
_ANY_OBJECT = {"type": "object"}
_FORMATS = ("text", "json_object", "json_schema")
_GRAMMAR_TYPES = ("gbnf", "lark")


def take_grammar(fields: dict[str, Any]) -> Grammar | None:
    """Remove this module's fields from a request's fields; return the grammar that they describe.

    Raises:
        InvalidParameter: a field is malformed, or two fields each describe a grammar.
    """
    grammar_type = fields.pop("grammar_type", None)
    found: list[tuple[str, Grammar]] = []
    for name, read in FIELDS.items():
        value = fields.pop(name, None)
        grammar = None if value is None else read(value, name, grammar_type)
        if grammar is not None:
            found.append((name, grammar))
    if len(found) > 1:
        first, second = found[0][0], found[1][0]
        raise InvalidParameter(f"{first} and {second} are mutually exclusive.", second)
    grammar = found[0][1] if found else None
    if grammar_type is not None and (grammar is None or grammar.kind not in _GRAMMAR_TYPES):
        raise InvalidParameter("grammar_type can only be used with grammar.", "grammar_type")
    return grammar


def _response_format(value: Any, param: str, _: Any) -> Grammar | None:
    fields = _object(value, param, {"type", "json_schema", "schema"})
    kind = _required(fields, "type", param)
    if kind not in _FORMATS:
        raise InvalidParameter(
            f"{param}.type must be {one_of(_FORMATS)}, not {shown(kind)}.", f"{param}.type"
        )
    # llama-server takes a schema without a name for json_schema, too.
    bare = kind == "json_object" or "json_schema" not in fields
    owners = {"json_schema": kind == "json_schema", "schema": kind != "text" and bare}
    for name, fits in owners.items():
        if name in fields and not fits:
            words = "type json_object, or json_schema without json_schema"
            owner = "type json_schema" if name == "json_schema" else words
            raise InvalidParameter(
                f"{param}.{name} can only be used with {owner}.", f"{param}.{name}"
            )  # fmt: skip
    if kind == "text":
        return None
    if kind == "json_object" or "schema" in fields:
        return _json(fields.get("schema", _ANY_OBJECT), f"{param}.schema", None)
    return _named_schema(_required(fields, "json_schema", param), f"{param}.json_schema")


def _named_schema(value: Any, param: str) -> Grammar:
    """Read OpenAI's named schema. ``strict`` has no effect: every schema is enforced strictly."""
    fields = _object(value, param, {"name", "description", "schema", "strict"})
    name = _required(fields, "name", param)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"{param}.name must be 1 to 64 letters, digits, _ or -.", f"{param}.name"
        )
    if not isinstance(fields.get("description", ""), str):
        raise InvalidParameter(f"{param}.description must be a string.", f"{param}.description")
    if not isinstance(fields.get("strict", False), bool):
        raise InvalidParameter(f"{param}.strict must be true or false.", f"{param}.strict")
    return _json(_required(fields, "schema", param), f"{param}.schema", None)


def _json(value: Any, param: str, _: Any) -> Grammar:
    """Read a schema: an object, or its JSON text (vLLM's clients send both)."""
    if not isinstance(value, (dict, str)):
        raise InvalidParameter(f"{param} must be a JSON schema (an object).", param)
    too_much = excess(value) if isinstance(value, str) else ""
    if too_much:
        raise InvalidParameter(f"{param} contains {too_much}.", param)
    check_schema(value, param)
    return Grammar.of_schema(CheckedSchema(_without_nulls(value), param))


def _without_nulls(schema: dict[str, Any] | str) -> dict[str, Any] | str:
    """Return a schema given as text without the keywords that are null; others unchanged."""
    if not isinstance(schema, str) or "null" not in schema:
        return schema
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        return schema  # the check of the schema says what is wrong
    cleaned = without_null_keywords(parsed) if isinstance(parsed, dict) else parsed
    return schema if cleaned == parsed else cleaned


def _regex(value: Any, param: str, _: Any) -> Grammar:
    return Grammar("regex", _text(value, param), param)


def _choice(value: Any, param: str, _: Any) -> Grammar:
    if not isinstance(value, list) or not value:
        raise InvalidParameter(f"{param} must be a list of strings.", param)
    for index, text in enumerate(value):
        if not isinstance(text, str):
            place = f"{param}[{index}]"
            raise InvalidParameter(f"{place} must be a string, not {shown(text)}.", place)
    return Grammar("choice", json.dumps(value), param)


def _grammar(value: Any, param: str, kind: Any) -> Grammar | None:
    """Read GBNF or Lark; ``""`` means no grammar, as in llama-server."""
    source = _text(value, param)
    if kind is None:
        kind = "lark" if _LARK.search(source) else "gbnf"
    elif kind not in _GRAMMAR_TYPES:
        raise InvalidParameter("grammar_type must be gbnf or lark.", "grammar_type")
    return Grammar(kind, source, param) if source else None


def _structured_outputs(value: Any, param: str, kind: Any) -> Grammar | None:
    names = {"json", "json_object", "regex", "choice", "grammar"}
    fields = _object(value, param, names)
    if len(fields) != 1:
        known = ", ".join(sorted(names))
        raise InvalidParameter(f"{param} must contain exactly one of {known}.", param)
    ((name, inner),) = fields.items()
    inner_param = f"{param}.{name}"
    if name == "json_object":
        if not isinstance(inner, bool):
            raise InvalidParameter(f"{inner_param} must be true or false.", inner_param)
        return _json(_ANY_OBJECT, inner_param, None) if inner else None
    return FIELDS["json_schema" if name == "json" else name](inner, inner_param, kind)


FIELDS: dict[str, Callable[[Any, str, Any], Grammar | None]] = {
    # Field -> function that makes a grammar from its value, its path and ``grammar_type``.
    "response_format": _response_format,
    "json_schema": _json,
    "grammar": _grammar,
    "regex": _regex,
    "choice": _choice,
    "structured_outputs": _structured_outputs,
    "guided_json": _json,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
}


NAMES = frozenset({*FIELDS, "grammar_type"})


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(f"{param} must be a string.", param)
    return value


def _object(value: Any, param: str, known: set[str]) -> dict[str, Any]:
    """Return an object that has only known fields; ``null`` counts as absent."""
    if not isinstance(value, dict):
        raise InvalidParameter(f"{param} must be an object.", param)
    for name in value:
        if name not in known:
            raise unknown(f"{param}.{name}", known, param)
    return {name: inner for name, inner in value.items() if inner is not None}


def _required(fields: dict[str, Any], name: str, param: str) -> Any:
    if name not in fields:
        raise missing(f"{param}.{name}")
    return fields[name]
