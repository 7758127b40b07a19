"""Converts a client's grammar to llguidance's dialect, after checks and limits of size.

:class:`offgrid.engine.protocol.requests.Grammar` defines the names of the kinds of grammars.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from llguidance import grammar_from

from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.closed import closed
from offgrid.grammar.document import Json
from offgrid.grammar.gbnf import GbnfError, gbnf_to_lark
from offgrid.grammar.lark import lark_rules
from offgrid.grammar.lookahead import begins_with_look_ahead, lark_terminal
from offgrid.grammar.options import JSON_OPTIONS, MAX_ANSWER, NO_FORCING
from offgrid.grammar.pattern import MAX_REPETITION, repetition
from offgrid.grammar.regular import Unwritable
from offgrid.grammar.rules import TooTangled, endless_rule
from offgrid.grammar.schema import MAX_SOURCE as MAX_SCHEMA

MAX_SOURCE = {
    "json_schema": MAX_SCHEMA, "lark": 64 * 1024, "gbnf": 64 * 1024, "regex": 16 * 1024,
    "choice": 128 * 1024, "answer": MAX_ANSWER,
}  # fmt: skip
"""Bytes of UTF-8 by kind. The keys are also the list of kinds."""
MAX_CHOICES = 10_000


class GrammarError(ValueError):
    """A grammar that cannot be used; the message gives the reason."""


def check_size(kind: str, source: str, schemas: Sequence[CheckedSchema] = ()) -> None:
    """Refuse a source that is too long to be read, together with its schemas.

    Raises:
        GrammarError: the source is longer than :data:`MAX_SOURCE` allows for its kind.
    """
    size, limit = len(source.encode("utf-8")), MAX_SOURCE[kind]
    if kind == "answer":  # For json_schema, the schema's own check has applied the limit.
        size += sum(len(schema.text) for schema in schemas)
    if size > limit:
        raise GrammarError(f"it has {size} bytes; the maximum is {limit}")


def compilable_part(checked: Json) -> str:
    """Return a part of a checked schema as a separate grammar in Lark."""
    schema = {**checked, "x-guidance": JSON_OPTIONS}
    return f"start: %json {json.dumps(schema)}{NO_FORCING}"


def compilable(
    kind: str, source: str, schemas: Sequence[CheckedSchema] = (), open_objects: bool = False
) -> str:
    """Return a grammar in llguidance's dialect of Lark.

    Args:
        kind: one of :data:`MAX_SOURCE`.
        source: the grammar's text.
        schemas: the schemas that it refers to.
        open_objects: whether objects may have members that their schemas do not describe, as the
            standard says; see :mod:`offgrid.grammar.closed`.

    Raises:
        GrammarError: the grammar is malformed, beyond a limit, or has a rule that never ends.
    """
    texts = [schema.text if open_objects else closed(schema.text) for schema in schemas]
    if kind == "json_schema":
        (text,) = texts
        return f"start: %json {text}{NO_FORCING}"
    if kind == "answer":
        _check_no_schema(source)
        rules = [f"schema_{n}: %json {text}\n" for n, text in enumerate(texts)]
        return source + "".join(rules) + NO_FORCING
    if kind == "gbnf":
        return _from_gbnf(source) + NO_FORCING
    if kind == "regex":
        return _from_regex(source) + NO_FORCING
    if kind == "choice":
        return _from_choice(json.loads(source)) + NO_FORCING
    _check_lark(source)
    return source + NO_FORCING


def _from_gbnf(source: str) -> str:
    try:
        return gbnf_to_lark(source)
    except GbnfError as ex:
        raise GrammarError(str(ex)) from None


def _from_regex(source: str) -> str:
    if repetition(source) > MAX_REPETITION:
        raise GrammarError("it repeats too much")
    if begins_with_look_ahead(source):
        try:
            return f"start: TEXT\nTEXT: {lark_terminal(source)}"
        except Unwritable as ex:
            raise GrammarError(f"it {ex}") from None
    (compiled,) = json.loads(grammar_from("regex", source))["grammars"]
    return str(compiled["lark_grammar"])


def _from_choice(texts: list[str]) -> str:
    """Write one lexeme of all texts, so that the time of a step does not grow with their number."""
    if not texts or len(texts) > MAX_CHOICES:
        raise GrammarError(f"it must contain 1 to {MAX_CHOICES} texts")
    alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return f"start: CHOICE\nCHOICE: {alternatives}\n"


def _check_no_schema(source: str) -> None:
    if "%json" in source:
        # A schema within Lark would bypass the checks that schemas need.
        raise GrammarError("%json is not supported; send the schema as json_schema")


def _check_lark(source: str) -> None:
    _check_no_schema(source)
    try:
        endless = endless_rule(lark_rules(source) or {}, "start")
    except TooTangled as ex:
        raise GrammarError(str(ex)) from None
    if endless is not None:
        raise GrammarError(f"rule {endless} never ends, because it requires itself")
