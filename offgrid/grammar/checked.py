"""JSON schemas that are safe to compile: the only form in which any gets to the compiler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from offgrid.grammar.document import Json, SchemaError
from offgrid.grammar.messages import unusable
from offgrid.grammar.options import ANSWER_OPTIONS, ARGUMENT_OPTIONS
from offgrid.grammar.schema import parse_schema

_MAX_CACHED = 64 * 1024
"""Characters of a schema that is kept for the next request; 128 of these are."""


@dataclass(frozen=True, slots=True, init=False)
class CheckedSchema:
    """A JSON schema, checked and written as the compiler takes it.

    To construct one is to check it, so no other schema can be part of a
    :class:`~offgrid.engine.protocol.Grammar`. Only the decoder of the pipe makes one without a
    check: the process that sent it has constructed it.

    Args:
        schema: an object, or the text of one.
        param: the request field that errors name.
        arguments: whether it is that of the arguments of a call.

    Attributes:
        text: JSON of the schema, with the options that it is compiled with.
        param: as above.

    Raises:
        InvalidParameter: it is malformed, beyond a limit, not supported, or without any answer.
    """

    text: str
    param: str

    def __init__(self, schema: Json | str, param: str, *, arguments: bool = False) -> None:
        try:
            source = schema if isinstance(schema, str) else json.dumps(schema)
            make = _cached if len(source) <= _MAX_CACHED else _checked
            text = make(source, arguments)
        except SchemaError as ex:
            raise unusable("json_schema", param, ex.place + str(ex)) from None
        except RecursionError:
            raise unusable("json_schema", param, "it is nested too deeply") from None
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "param", param)

    @property
    def schema(self) -> Json:
        """The checked schema itself."""
        schema: Json = json.loads(self.text)
        del schema["x-guidance"]
        return schema


def _checked(source: str, arguments: bool) -> str:
    schema = parse_schema(source)
    if arguments:
        return json.dumps({"type": "object", **schema, "x-guidance": ARGUMENT_OPTIONS})
    return json.dumps({**schema, "x-guidance": ANSWER_OPTIONS})


_cached = lru_cache(maxsize=128)(_checked)
"""The same tools come with every request of a conversation."""
