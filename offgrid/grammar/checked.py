"""JSON schemas that are safe to compile. The compiler accepts schemas in no other form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

from offgrid.grammar.document import Json, Path, SchemaError, place
from offgrid.grammar.messages import unusable
from offgrid.grammar.options import JSON_OPTIONS
from offgrid.grammar.schema import parse_schema

WHOLE = "offgrid_root"
"""Name of the definition that is the whole schema, in a part of it."""
_MAX_CACHED = 64 * 1024
"""Characters of a schema that is cached for the next request; the cache holds 128 schemas."""


@dataclass(frozen=True, slots=True, init=False)
class CheckedSchema:
    """A JSON schema, checked and in the form that the compiler takes.

    Construction checks the schema, so a :class:`~offgrid.engine.protocol.requests.Grammar` cannot
    contain an unchecked one. Only the decoder of the pipe creates objects without a check, because
    the sending process has constructed them.

    Args:
        schema: an object, or its JSON text.
        param: the request field that errors name.
        arguments: whether the schema is for the arguments of a tool call.
        part: for a part of a checked schema, its path there, () if there is none. The patterns of
            such a part have been converted for the compiler; a second conversion would change
            their meaning. References in it lead to the whole schema, which is its definition
            :data:`WHOLE`.

    Attributes:
        text: JSON of the schema, including the options for its compilation.
        param: as above.
        path: where the schema stands in the client's schema; empty if it is the whole or unknown.

    Raises:
        InvalidParameter: the schema is malformed, beyond a limit, not supported or unsatisfiable.
    """

    text: str
    param: str
    path: Path = field(default=(), compare=False)

    def __init__(
        self, schema: Json | str, param: str, *, arguments: bool = False, part: Path | None = None
    ) -> None:
        try:
            source = schema if isinstance(schema, str) else json.dumps(schema)
            make = _cached if len(source) <= _MAX_CACHED else _checked
            text = make(source, arguments, part is not None)
        except SchemaError as ex:
            raise unusable("json_schema", param, ex.place + str(ex)) from None
        except RecursionError:
            raise unusable("json_schema", param, "it is nested too deeply") from None
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "param", param)
        object.__setattr__(self, "path", part or ())

    def place(self, inside: Path) -> str:
        """Return the beginning of a sentence about a place in this schema, with the JSON pointer in
        the client's schema."""
        if inside[:2] == ("$defs", WHOLE):
            return place(inside[2:])
        return place((*self.path, *inside))

    @property
    def schema(self) -> Json:
        """The checked schema without the options."""
        schema: Json = json.loads(self.text)
        del schema["x-guidance"]
        return schema


def _checked(source: str, arguments: bool, part: bool) -> str:
    schema = parse_schema(source, converted=part)
    kind = {"type": "object"} if arguments else {}
    return json.dumps({**kind, **schema, "x-guidance": JSON_OPTIONS})


_cached = lru_cache(maxsize=128)(_checked)
"""The cache helps because every request of a conversation sends the same tools."""
